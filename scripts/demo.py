"""The main job: train a policy, export it, code held-out photographs with it, compare and draw.

Arguments are further overrides of the training's configuration: `scripts/demo.py total_steps=50000`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from rich.console import Console

import ambi_rl
from ambi_rl.bench import demo
from ambi_rl.bench.report import points_table
from ambi_rl.errors import AmbiError, UsageError

ROOT = Path(__file__).resolve().parent.parent
PHOTOGRAPHS = Path(ambi_rl.__file__).parent / "data" / "photographs"
BUDGET_SECONDS = 480
"""What the whole may take on two cores."""


class Clock:
    """Announces steps with the seconds spent of the budget."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def step(self, text: str) -> None:
        """Print a heading."""
        spent = f"{self.seconds:3.0f} s of {BUDGET_SECONDS} s"
        self._console.print(f"\n[bold]\\[{spent}] {text}[/bold]", soft_wrap=True)


def move_aside(run: Path) -> Path | None:
    """Rename an earlier run after the time of its last change; return its new name."""
    if not run.exists():
        return None
    moment = datetime.fromtimestamp(run.stat().st_mtime)
    target = run.with_name(f"{run.name}-{moment:%Y%m%d-%H%M%S}")
    while target.exists():
        target = target.with_name(f"{target.name}-again")
    run.rename(target)
    return target


def ambi(*arguments: str) -> None:
    """Run `ambi` in its own process, its output on this terminal."""
    done = subprocess.run([sys.executable, "-m", "ambi_rl.cli", *arguments], cwd=ROOT, check=False)
    if done.returncode != 0:
        raise AmbiError(f"`ambi {' '.join(arguments)}` failed, see above; run it again by itself")


def check_overrides(overrides: list[str]) -> None:
    """Refuse what would put the run somewhere else.

    Raises:
        UsageError: One of the arguments is not an override, or names another run.
    """
    for text in overrides:
        key, equals, _ = text.partition("=")
        if not equals or key.startswith("-") or key in ("name", "runs", "resume", "experiment"):
            raise UsageError(
                f"{text!r} does not suit the demonstration; use `ambi train` for runs of your own"
            )


def main(overrides: list[str]) -> None:
    check_overrides(overrides)
    console = Console()
    clock = Clock(console)
    run = ROOT / "runs" / "demo"
    before = move_aside(run)
    if before is not None:
        console.print(f"the earlier run is now {before.relative_to(ROOT)}")

    command = ["train", "experiment=demo", *overrides]
    clock.step(f"training: ambi {' '.join(command)}")
    ambi(*command)

    bundle = run / "demo.ambic"
    clock.step(f"exporting: ambi export runs/demo -o {bundle.relative_to(ROOT)}")
    ambi("export", str(run), "-o", str(bundle))

    clock.step("coding the held-out photographs")
    photographs = demo.open_photographs(PHOTOGRAPHS)
    ours, peers = demo.demo_codecs(bundle)
    with console.status("starting") as status:
        measured = demo.compare([*ours, *peers], photographs, progress=status.update)
    rivals = [measured[peer.name][0] for peer in peers]
    first = photographs[0]
    title = f"{first.name}, {first.image.width}x{first.image.height}, never seen in training"
    console.print(points_table([measured[c.name][0] for c in ours], rivals, title=title))
    console.print(
        "policy: the trained policy alone; search: over everything;\n"
        "fixed: blocks of one size, DC prediction. vs: rate against the peer's at equal PSNR.\n"
        "Every file was decoded, and the planes' checksum is the encoder's."
    )
    summary = demo.summarise(measured)
    console.print(summary.table(f"BD-rate, mean of {len(photographs)} held-out photographs"))
    share = "an unknown part" if summary.share is None else f"{summary.share:.0f} %"
    console.print(
        f"The policy covers {share} of the distance from fixed to search and is "
        f"{summary.speed_up:.0f} times as fast as search."
    )

    clock.step("verifying and drawing")
    console.print(demo.verify_elsewhere(ours[1], first, run), soft_wrap=True)
    picture = run / "demo.png"
    demo.decision_figure(ours, first).save(picture)

    clock.step("done")
    for label, path in (
        ("picture of the decisions", picture),
        ("the codec it trained", bundle),
        ("a coded photograph", run / f"{first.name}.ambi"),
        ("its decode", run / f"{first.name}.png"),
        ("the training run", run),
    ):
        console.print(f"  {label:25} {path.relative_to(ROOT)}", soft_wrap=True)
    console.print("try it:")
    console.print("  .venv/bin/tensorboard --logdir runs/demo")
    console.print(
        "  .venv/bin/ambi encode PHOTO.jpg photo.ambi -e 0 -b runs/demo/demo.ambic", soft_wrap=True
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except AmbiError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
