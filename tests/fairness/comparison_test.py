import json

import pytest

from configs import fairness as fairness_config
from experiments.fairness import fairness
from lm.errors import UserError
from lm.fairness import comparison
from lm.metrics import intervals


def share(num, total):
    return {"value": num / total if total else None, "interval": intervals.wilson(num, total)}


def test_measures_are_found_wherever_they_are():
    pair = {"share": 0.5, "share_interval": [0.2, 0.8], "num_pairs": 8}
    results = {
        "this model": {"shared": pair | {"by_category": {"age": pair}}, "num": 3},
        "random weights 0": {"shared": pair},
        "roles swapped": {"shared": pair},
        "g": {"yes": {"by_group": {"x": {"tpr": share(0, 0) | {"reason": "group 'x' has none"}}}}},
    }

    found = comparison.measures(results)

    assert found == {
        "shared share": (0.5, (0.2, 0.8)),
        "shared by_category age share": (0.5, (0.2, 0.8)),
        "g yes by_group x tpr": (None, None),
    }


def test_differences_are_after_less_before():
    before = {"flips": share(9, 10), "only": share(1, 2), "none": share(0, 0)}
    after = {"flips": share(1, 20), "none": share(3, 4)}

    found = comparison.compare(before, after)

    assert found.keys() == {"flips", "none"}
    first, second = (comparison.Measure(*share(*x).values()) for x in ((9, 10), (1, 20)))
    assert found["flips"][:2] == (first, second)
    value, (low, high) = found["flips"].difference
    assert value == pytest.approx(0.05 - 0.9)
    assert (low, high) == intervals.difference(*second, *first)
    assert -1 <= low < value < high < -0.4
    assert found["none"].difference == (None, None)


def compare(workdir, before, after):
    config = fairness_config.get_config("what=compare")
    config.update(before=str(before), after=str(after))
    assert fairness.run(config.lock(), workdir) == 0
    return json.loads((workdir / "fairness.json").read_text())["results"]


@pytest.fixture
def measurements(tmp_path):
    """Workdirs of three measurements, the last one of something else."""
    for name, num, what in (("one", 9, "groups"), ("two", 1, "groups"), ("pairs", 1, "pairs")):
        (tmp_path / name).mkdir()
        contents = dict(what=what, checkpoint=name, data=name, results={"flips": share(num, 10)})
        (tmp_path / name / "fairness.json").write_text(json.dumps(contents))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "fairness.json").write_text('{"what": "groups", "results": {}}')
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "fairness.json").write_text("[]")
    return tmp_path


def test_two_measurements_are_a_report(measurements, capsys):
    found = compare(measurements / "out", measurements / "one", measurements / "two")

    assert found["flips"]["before"]["value"] == 0.9
    assert found["flips"]["difference"]["value"] == pytest.approx(-0.8)
    printed = capsys.readouterr().out
    assert "what=groups: one, then two\nnot only the model differs: data\n" in printed
    assert "-0.800 (" in printed
    assert (measurements / "out" / "fairness.png").exists()


REFUSED = {
    "nothing": (("", "two"), "before is not set"),
    "no measurement": (("one", "three"), "after=.*three has no fairness.json; measure first"),
    "another measure": (("one", "pairs"), "holds what=groups and after=.*pairs what=pairs"),
    "nothing in common": (("one", "odd"), "have no measure in common"),
    "no results": (("one", "no"), "after=.*no: its fairness.json holds no results"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compared_is_one_line(name, measurements):
    names, message = REFUSED[name]
    before, after = (measurements / name if name else "" for name in names)

    with pytest.raises(UserError, match=message) as caught:
        compare(measurements / "out", before, after)
    assert "\n" not in str(caught.value)
    assert not (measurements / "out").exists()
