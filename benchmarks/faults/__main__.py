"""Kills, damages and starves runs on tiny models: `python -m benchmarks.faults`.

SIGKILL at random moments, which a seed gives, of pretraining, fine-tuning, a sweep, preparation,
conversion and curation, each of which must come to the same bits in the end; damaged checkpoints,
prepared data and folders of transformers, none of which may be used in silence; and full disks,
where this process may mount some. Prints a table in Markdown; the last one stands in
docs/reliability.md. The exit code is 1 where something was not right.
"""

import argparse
import pathlib
import random
import sys
import tempfile
import time

from benchmarks.faults import corruptions, full_disks, kills
from benchmarks.faults.commands import Place

_WRONG = ("traceback", "WRONG", "noticed, in many")


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--corruptions", type=int, default=100)
    parser.add_argument("--num_steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(kills.NAMES), help="what is killed")
    parser.add_argument("--only", default="kills,corruptions,full_disks", help="of these, some")
    args = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lm-faults-") as folder:
        are_right = _run(Place(pathlib.Path(folder), args.num_steps), args)
    print(f"\n{(time.monotonic() - start) / 60:.0f} minutes, seed {args.seed}")
    return 0 if are_right else 1


def _run(place: Place, args: argparse.Namespace) -> bool:
    are_right = True

    def row(*cells: object) -> None:
        print(f"| {' | '.join(map(str, cells))} |", flush=True)

    run, exported = place.folder / "run", place.folder / "exported"
    only = args.only.split(",")
    kinds = args.kinds.split(",") if "kills" in only else []
    if {*kinds, *only} - {"kills", "curation"}:
        place.must(place.pretraining(run))
        place.must(place.conversion(run, exported))
    row("fault", "of", "times", "outcome")
    row("---", "---", "---", "---")
    rng = random.Random(args.seed)
    for name, num, num_right, odd in kills.rows(place, run, args.kills, args.seed, kinds):
        said = f"{num_right} of {num} equal to the bit in the end, no process left"
        row("SIGKILL", name, num, f"{said}{'; ' + odd if odd else ''}")
        are_right &= num_right == num and not odd
    if "corruptions" in only:
        found = corruptions.rows(place, run, exported, args.corruptions, rng)
    else:
        found = iter(())
    for name, counts in found:
        for outcome, num in sorted(counts.items()):
            row("damaged file", name, num, outcome)
            are_right &= not outcome.startswith(_WRONG)
    if "full_disks" not in only:
        return are_right
    if problem := full_disks.why_not(place.folder):
        row("full disk", "each stage", 0, f"not tried: {problem}")
        return are_right
    for one in full_disks.rows(place, run, exported):
        row("full disk", one.stage, 1, one.what)
        are_right &= one.is_right
    return are_right


if __name__ == "__main__":
    sys.exit(main())
