"""Every configuration key with its default and a comment, and how configurations are loaded.

``defaults`` holds the keys of models, data, training and tests; ``detectors`` those of each
detector; ``faces`` those of the face methods; ``files`` reads YAML.
An unknown key is an error that names the nearest.
"""

from comics.config.defaults import (
    CfgNode,
    get_cfg,
    load_config,
    load_config_text,
    merge_node,
    merge_overrides,
)

__all__ = [
    "CfgNode",
    "get_cfg",
    "load_config",
    "load_config_text",
    "merge_node",
    "merge_overrides",
]
