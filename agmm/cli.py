"""The command ``agmm``: images of your own, and single runs of the tables.

    agmm check   --images DIR --labels DIR --classes names.txt             what is there, and what is wrong with it
    agmm train   --images DIR --labels DIR --classes names.txt --out DIR   a network from sparse labels
    agmm predict --model DIR --images DIR --out DIR                        masks and overlays
    agmm run     O005 --preset paper --data-root DIR                       a training of the papers' tables

Labels are PNG masks (code of the class, 254 where nothing is labeled, 255 to ignore), a CSV of clicks (image, x, y,
class), labelme's JSON, COCO's JSON or CVAT's XML, named as the images or naming them.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from agmm import own

COMMANDS = ("train", "predict", "check", "run")


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 2 after a mistake of the user."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "run":
        from agmm import __main__ as single  # which falls back on this module

        return single.main(argv[1:])
    args = _parser().parse_args(argv)
    given = {name: value for name, value in vars(args).items() if name not in ("command", "action")}
    handler, logger = logging.StreamHandler(sys.stderr), logging.getLogger("agmm")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        return args.action(**given)
    except KeyboardInterrupt:
        print(f"agmm {args.command}: interrupted; the same call of train resumes after its last epoch", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"agmm {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        logger.removeHandler(handler)


def _train(**given: object) -> int:
    result = own.train(**given)  # type: ignore[arg-type]
    out = Path(str(given["out"]))
    print(f"mean IoU {result.miou:.1f} on the validation images; classes in {out / 'report.csv'}")
    print(f"next: agmm predict --model {out} --images DIR --out DIR")
    return 0


def _predict(**given: object) -> int:
    table = own.predict(**given)  # type: ignore[arg-type]
    if table is not None:
        print(table[["class", "iou"]].to_string(index=False, float_format="%.1f"))
    print(f"masks/, overlays/ and their colors, classes.csv, in {given['out']}")
    return 0


def _check(**given: object) -> int:
    problems, notes = own.check(**given)  # type: ignore[arg-type]
    print("\n".join([*notes, *(f"problem: {problem}" for problem in problems)]))
    found = f"{len(problems)} problem{'s' * (len(problems) > 1)} found"
    print(found if problems else "all is well: train with the same options and --out DIR")
    return 2 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("agmm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{train,predict,check,run}")

    def command(name: str, help: str, action: Callable[..., int]) -> Callable[..., argparse.Action]:
        one = commands.add_parser(name, help=help, description=help)
        one.set_defaults(action=action)
        return one.add_argument

    add = command("train", "Train on a folder of images with sparse labels; the same call resumes it.", _train)
    _folder(add)
    add("--out", type=Path, required=True, metavar="DIR", help="new folder for the model and its report")
    add("--complete", action="store_true", help="the labels of an image name every class that it shows")
    add("--method", choices=("AGMM", "Baseline"), help="default: AGMM with --complete, else Baseline")
    add("--network", choices=("small", "resnet50"), help="default: resnet50 on a GPU, else small")
    add("--init", choices=("imagenet", "scratch"), help="of resnet50 (default: imagenet, if its weights can be had)")
    add("--side", type=int, metavar="N", help="longest side that images are shrunk to (default: 256; 512 on a GPU)")
    add("--steps", type=int, metavar="N", help="optimizer steps (default: 600; 4000 on a GPU)")
    add("--width", type=int, default=3, metavar="N", help="width of clicks and lines in pixels (default: 3)")
    add("--validation", type=float, default=0.2, metavar="X", help="share of images to validate on (default: 0.2)")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--onnx", action="store_true", help="write model.onnx, too, and check it with onnxruntime")
    add = command("predict", "Predict the masks of a folder of images.", _predict)
    add("--model", type=Path, required=True, metavar="DIR", help="folder that agmm train wrote")
    add("--images", type=Path, required=True, metavar="DIR", help="folder of images")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="new folder for masks/, overlays/, classes.csv, report.csv",
    )
    add("--truth", type=Path, metavar="DIR", help="folder of dense masks, for the IoU of every class")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add = command("check", "Say what a folder holds and what is wrong with it.", _check)
    _folder(add)
    commands.add_parser("run", help="Train a single run of the papers' tables.", add_help=False)
    return parser


def _folder(add: Callable[..., argparse.Action]) -> None:
    add("--images", type=Path, required=True, metavar="DIR", help="folder of images")
    add("--labels", type=Path, required=True, metavar="PATH", help="folder of masks and annotation files, or one file")
    add("--classes", type=Path, required=True, metavar="FILE", help="text file with a class name a line")
    add("--truth", type=Path, metavar="DIR", help="folder of dense masks of some images, to validate on")


if __name__ == "__main__":
    sys.exit(main())
