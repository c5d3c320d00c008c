"""Train the restoration of a bundle: the filter after decoding.

    python scripts/train_restoration.py PHOTOS [MORE ...] --bundle START.ambic --output WITH.ambic

Stage 1 codes crops of the photographs at random steps, with the bundle and the current encoder. Stage 2
trains the network on them for --minutes, on a GPU if there is one. Stage 3 codes the held-out photographs
(every tenth by name) and reports what restoration gains there. Stage 4 writes the bundle. All stages keep
what they have done in the folder --work, and go on from there when the command is given again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ambi_rl.codec.bundle import Bundle, load_bundle, save_bundle
from ambi_rl.codec.files import write_file
from ambi_rl.codec.restoration import macs_per_pixel, validate_tensors
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.data.pairs import SHARD, PairFolder, PairSettings
from ambi_rl.data.source import list_photographs, split_held_out
from ambi_rl.training.display import Display
from ambi_rl.training.restoration import (
    RestorationSettings,
    RestorationTraining,
    export_network,
)
from ambi_rl.training.restoration_evaluation import Gain, code_photographs, measure

ROOT = Path(__file__).parent.parent
HELD_OUT_EVERY = 10


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="folders of photographs")
    parser.add_argument(
        "--bundle",
        type=Path,
        default=ROOT / "ambi_rl" / "codec" / "default.ambic",
        help="bundle to start from",
    )
    parser.add_argument("--output", type=Path, required=True, help="bundle to write")
    parser.add_argument("--minutes", type=float, default=60, help="time that training takes")
    parser.add_argument(
        "--pairs", type=int, default=2048, help="crops of 256x256 to train with, 1.5 MB each"
    )
    parser.add_argument("--effort", type=int, default=5, help="effort that they are coded with")
    parser.add_argument(
        "--exclude",
        nargs="*",
        default=["budgie-backgrounds-0012", "budgie-backgrounds-0023"],
        help="leave out photographs whose names contain one of these",
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "restoration", help="folder to work in"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of the training; all if left out")
    for name, kind in RestorationSettings.__annotations__.items():
        default = getattr(RestorationSettings, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type={"int": int, "float": float}[kind],
            default=default,
            help=f"of the network or its training ({default})",
        )
    return parser.parse_args()


def photographs(folders: list[Path], exclude: list[str]) -> tuple[list[Path], list[Path]]:
    """Those to train with and those that are held out."""
    train, held = split_held_out(list_photographs(folders), HELD_OUT_EVERY)
    return [path for path in train if not any(text in path.name for text in exclude)], held


def table(gain: Gain) -> str:
    """The result for people."""
    lines = ["step   PSNR plain   restored   best strength"]
    lines += [
        f"{step:4d}   {psnr:7.3f} dB   {gain.gain[step]:+6.3f} dB   {gain.weighed[step]:+6.3f} dB"
        for step, psnr in gain.psnr.items()
    ]
    lines.append(
        f"BD-rate {gain.bd_rate:+.2f} %; worse than without: {gain.harmed:.1%} of pictures; "
        f"switched by {gain.square}x{gain.square} squares, error would fall another {gain.switched:.2f} %"
    )
    return "\n".join(lines)


def main() -> None:
    """Run the four stages."""
    arguments = parse()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    display = Display()
    ensure_compiled("encode", display.line)
    start = replace(load_bundle(arguments.bundle), restoration={})
    train, held = photographs(arguments.folders, arguments.exclude)
    # What was made with another encoder is of no use to this one.
    work = arguments.work / f"{start.planes_id}-{arguments.effort}"
    with display.running():
        folder = PairFolder(work / "pairs", train, start, PairSettings(effort=arguments.effort))
        shards = -(-arguments.pairs // SHARD)
        with display.phase("code crops") as report:
            folder.make(shards, report)
        settings = RestorationSettings(
            **{name: getattr(arguments, name) for name in RestorationSettings.__annotations__}
        )
        training = RestorationTraining(folder.open(shards), settings, work / "checkpoint.pt")
        with display.phase("train") as report:
            for fraction in training.run(60 * arguments.minutes):
                report(fraction)
        display.line(f"{training.steps} steps, loss {training.loss:.4f}")
        tensors = export_network(training.averaged())
        validate_tensors(tensors)
        with display.phase("code held-out photographs") as report:
            coded = code_photographs(held, start, arguments.effort, work / "held-out", report)
        gain = measure(coded, tensors, float(start.manifest["lambda_scale"]))
    display.line(table(gain))
    facts = {
        "settings": asdict(settings),
        "minutes": training.seconds / 60,
        "macs_per_pixel": macs_per_pixel(tensors),
        "gain": asdict(gain),
    }
    write_file(work / "gain.json", json.dumps(facts, indent=1).encode())
    manifest = start.manifest | {"restoration": facts}
    bundle = Bundle(manifest, start.entropy, start.policy, tensors)
    save_bundle(bundle, arguments.output)
    size = arguments.output.stat().st_size
    display.line(f"{arguments.output}: {size:,} bytes, {facts['macs_per_pixel']:,.0f} MAC/pixel")


if __name__ == "__main__":
    main()
