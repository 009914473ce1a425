"""The subcommands of ``comics``: each a module with ``add_<name>_arguments`` and ``run_<name>``.

Their modules import nothing heavy at the top: ``--help`` and a mistyped option answer at once.
"""
