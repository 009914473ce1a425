import json

import pytest

from comics.data.jobs import claim_folder, run_jobs


def double(job):
    if job == 3:
        raise ValueError("three is bad")
    return {"twice": 2 * job}, ["odd"] if job % 2 else []


@pytest.mark.parametrize("workers", [0, 1])
def test_results_come_in_order_and_faults_are_kept(tmp_path, workers):
    jobs = [(f"a/{n}", n) for n in range(5)]
    results = list(run_jobs(tmp_path, double, jobs, workers=workers))
    assert [r.value for r in results] == [
        {"twice": 0},
        {"twice": 2},
        {"twice": 4},
        None,
        {"twice": 8},
    ]
    assert [r.faults for r in results] == [(), ("odd",), (), ("three is bad",), ()]
    again = list(run_jobs(tmp_path, double, jobs))
    assert [r.reused for r in again] == [True, True, True, False, True]
    assert [(r.value, r.faults) for r in again] == [(r.value, r.faults) for r in results]


def test_a_result_that_was_cut_short_is_made_again(tmp_path):
    list(run_jobs(tmp_path, double, [("x", 1)]))
    (file,) = (tmp_path / ".jobs").glob("x-*.json")
    file.write_text(file.read_text()[:10])
    (result,) = run_jobs(tmp_path, double, [("x", 1)])
    assert not result.reused
    assert json.loads(file.read_text())["value"] == {"twice": 2}


def test_names_and_arguments(tmp_path):
    with pytest.raises(ValueError, match="two jobs are called 'x'"):
        list(run_jobs(tmp_path, double, [("x", 1), ("x", 2)]))
    claim_folder(tmp_path, {"size": (1, 2)})
    claim_folder(tmp_path, {"size": [1, 2]})
    with pytest.raises(ValueError, match="other arguments"):
        claim_folder(tmp_path, {"size": [1, 3]})
