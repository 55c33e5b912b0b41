"""The command ``agmm``; ``python -m agmm`` is the same.

check, train and predict are for images of your own, run is for a single training of the papers' tables, the others are
tools around them; ``run_all.py`` regenerates whole tables. ``agmm COMMAND --help`` explains the options of a command.
"""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import agmm

if TYPE_CHECKING:
    from agmm.training.run import Run

ROOT = Path(__file__).resolve().parents[1]  # the checkout, where results lie if nothing else is said

# Modules that need torch are imported inside of functions: --help and mistyped options should not wait for it.

Arguments = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """A sub-command: how its options are added to a parser, and its work, which returns the exit code."""

    help: str
    arguments: Callable[[argparse.ArgumentParser], object]
    action: Callable[[Arguments], int]
    extra: str = "experiments"  # of the package, which the command needs
    resumed: str = ""  # what repeating the command does after Ctrl-C


class Parser(argparse.ArgumentParser):
    """A parser that writes one sentence per mistake."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and exit with code 2."""
        self.exit(2, f"{self.prog}: {message}; --help explains the options\n")


def main(argv: list[str] | None = None) -> int:
    """Return 0, 2 after a mistake of the user, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in COMMANDS:
        _parser().parse_args(argv)  # prints the help, the version or the mistake, and exits
    command = COMMANDS[argv[0]]
    sys.path.append(os.getcwd())  # where a method of the user may lie; an installed command does not look there

    def action() -> int:
        return command.action(_parser(argv[0]).parse_args(argv))

    return exit_code(f"agmm {argv[0]}", action, extra=command.extra, resumed=command.resumed)


def exit_code(program: str, action: Callable[[], int], *, extra: str = "experiments", resumed: str = "") -> int:
    """Return the exit code of an action; 2 after an error that a user can mend, 130 after Ctrl-C, 141 after a pipe.

    The error becomes one sentence on stderr that begins with ``program``; after Ctrl-C it ends with what ``resumed``
    says of the next call. ``extra`` is the extra of the package that brings what is missing.
    """
    try:
        code = action()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read the output, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(f"{program}: interrupted{f'; {resumed}' if resumed else ''}", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        package = (error.name or "agmm").partition(".")[0]
        if package == "agmm" or package in sys.stdlib_module_names:
            raise
        problem = f"needs the package {package} of the extra {extra}: pip install 'agmm[{extra}]'"
    except (ValueError, OSError, RuntimeError) as error:
        problem = " ".join(str(error).split())
        if type(error).__name__ == "OutOfMemoryError":  # of torch, which not every command imports
            problem = "the memory of the device is too small; choose --device cpu"
    print(f"{program}: {problem}", file=sys.stderr)
    return 2


def _parser(chosen: str | None = None) -> Parser:
    """Return the parser; only the chosen command has its options, as they may stand in a module that needs torch."""
    parser = Parser("agmm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"agmm {agmm.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, help=command.help, formatter_class=parser.formatter_class)
        one.description = command.help
        if name == chosen:
            command.arguments(one)
    return parser


# --- Images of one's own ----------------------------------------------------------------------------------------------


def _folder_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--images", type=Path, required=True, metavar="DIR", help="folder of images")
    labels = (
        "folder of PNG masks (code of the class, 254 where nothing is labeled, 255 to ignore) or of annotation files "
        "(CSV of clicks with image, x, y, class; labelme or COCO JSON; CVAT XML; __ignore__ is void), or one such file"
    )
    add("--labels", type=Path, required=True, metavar="PATH", help=labels)
    add("--classes", type=Path, required=True, metavar="FILE", help="text file with a class name a line")
    add("--truth", type=Path, metavar="DIR", help="folder of dense masks of some images, to validate on")
    fill = "what no polygon, mask or box covers is background, in images that have one"
    add("--fill-background", action="store_true", help=fill)


def _device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")


def _check(args: Arguments) -> int:
    from agmm import own

    problems, notes = own.check(args.images, args.labels, args.classes, args.truth, args.fill_background)
    print("\n".join([*notes, *(f"problem: {problem}" for problem in problems)]))
    if problems:
        print(f"{len(problems)} problem{'s' * (len(problems) > 1)} found")
        return 2
    print("all is well: train with the same options and --out DIR")
    return 0


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    _folder_arguments(parser)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="new folder for the model and its report")
    add("--complete", action="store_true", help="the labels of an image name every class that it shows")
    for name, choices, automatic in (
        ("--method", ("AGMM", "Baseline"), "AGMM with --complete, else Baseline"),
        ("--network", ("lite0", "small", "resnet50"), "resnet50 on a GPU, else lite0 from ImageNet, or small"),
        ("--init", ("imagenet", "scratch"), "of resnet50: imagenet, if its weights can be had"),
    ):
        add(name, choices=("auto", *choices), default="auto", help=f"auto (default): {automatic}")
    add("--side", type=int, default=0, metavar="N", help="longest side of images (default: 256; 512 on a GPU)")
    add("--steps", type=int, default=0, metavar="N", help="optimizer steps (default: 600; 4000 on a GPU)")
    add("--width", type=int, default=3, metavar="N", help="width of clicks and lines in pixels (default: 3)")
    add("--validation", type=float, default=0.2, metavar="X", help="share of images to validate on (default: 0.2)")
    cross = "cross: on all labeled images, by five further trainings (default: apart, on those left out)"
    add("--validate", choices=("apart", "cross"), default="apart", help=cross)
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    _device(parser)
    add("--onnx", action="store_true", help="write model.onnx, too, and check it with onnxruntime")


def _train(args: Arguments) -> int:
    from agmm import own

    options = own.Options(**{option.name: getattr(args, option.name) for option in fields(own.Options)})
    with _progress():
        folders = args.images, args.labels, args.classes, args.out
        result = own.train(*folders, options, truth=args.truth, device=args.device, onnx=args.onnx)
    print(f"{result.details['figure']}; classes in {args.out / 'report.csv'}")
    print(f"next: agmm predict --model {args.out} --images DIR --out DIR")
    return 0


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="folder that agmm train wrote")
    add("--images", type=Path, required=True, metavar="DIR", help="folder of images")
    add("--out", type=Path, required=True, metavar="DIR", help="new folder for masks/, overlays/ and their colors")
    add("--truth", type=Path, metavar="DIR", help="folder of dense masks, for the IoU of every class in report.csv")
    _device(parser)


def _predict(args: Arguments) -> int:
    from agmm import own

    with _progress():
        table = own.predict(args.model, args.images, args.out, truth=args.truth, device=args.device)
    if table is not None:
        for measured, part in table.groupby("measured_on", sort=False):
            print(measured, part[["class", "iou"]].to_string(index=False, float_format="%.1f"), sep="\n")
    print(f"masks/, overlays/ and their colors, classes.csv, in {args.out}")
    return 0


@contextlib.contextmanager
def _progress() -> Iterator[None]:
    """Show on stderr what trainings write into their logs."""
    handler, logger = logging.StreamHandler(sys.stderr), logging.getLogger("agmm")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


# --- A single training ------------------------------------------------------------------------------------------------


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a single run of the papers' tables; on four GPUs:\n"
        "    torchrun --nproc-per-node 4 -m agmm run O005 --preset paper --data-root DIR\n"
        "`run_all.py --dry-run --only agmm` lists numbers and identities, and `run_all.py` uses the result."
    )
    add = parser.add_argument
    add("training", help="number of a training in the paper's list, such as O005, or the identity of a run")
    add("--preset", default="quick", help="scale of everything (default: quick)")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    where_arguments(parser)
    change_arguments(parser)


def change_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that fit trainings to a machine, and the one that tries them."""
    changes = "they change all runs alike and become part of the preset's name, as in paper+microbatch8+bfloat16"
    add = parser.add_argument_group("to fit trainings to a machine or to the files at hand", changes).add_argument
    add("--microbatch", type=positive, metavar="N", help="images that a loss extends over, at most")
    scopes = "images that batch normalization extends over: the effective batch or a microbatch"
    add("--norm-scope", choices=("effective", "microbatch"), help=scopes)
    add("--precision", choices=("float32", "bfloat16"), help="of the network; losses are always float32")
    add("--compile", action="store_true", help="train the network through torch.compile")
    add("--labels", choices=("simulated",), help="simulate labels from dense masks where others were published")
    add("--init-weights", type=Path, metavar="FILE", help="ImageNet weights of a backbone instead of timm's")
    add = parser.add_argument
    tried = "train N steps, test a batch, say what it costs, keep nothing"
    add("--try", dest="steps", type=positive, metavar="N", help=tried)


def positive(text: str) -> int:
    """Return a whole number of at least 1 from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def changed_preset(args: Arguments) -> str:
    """Return the name of the preset with the changes that the options ask for, and keep the weights to start from."""
    from agmm.papers import tables
    from agmm.training import presets, weights

    tables.preset(args.preset)
    words = [f"microbatch{args.microbatch}"] if args.microbatch is not None else []
    words += [f"norm_{args.norm_scope}"] if args.norm_scope else []
    words += [args.precision] if args.precision else []
    words += ["compiled"] if args.compile else []
    words += ["simulated"] if args.labels else []
    words += [weights.keep_init(args.init_weights, args.results)] if args.init_weights else []
    return presets.composed(args.preset, words)


def where_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a run finds its data and leaves its results."""
    add = parser.add_argument
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--data-root", type=Path, metavar="PATH", help="folder of the data set; the embedded one needs none")
    add("--no-decoded", dest="keep_decoded", action="store_false", help="keep no decoded images in results/cache")
    add("--results", type=Path, default=ROOT / "results", metavar="PATH", help="folder to write to (default: results)")


def _run(args: Arguments) -> int:
    from agmm.training import loop, sweep, train, trial, weights
    from agmm.training.where import at, label_sources

    run = replace(_shared(find(args.training, changed_preset(args))), seed=args.seed)
    where = at(args.results, args.data_root, args.device, args.keep_decoded)
    todo = sweep.distinct([run]) if args.steps else sweep.missing(sweep.distinct([run]), args.results)
    if todo:  # a complete run needs neither GPU nor data
        train.check_device(run, args.device)
    for line in label_sources(todo, where) if os.environ.get("RANK", "0") == "0" else ():
        print(line, flush=True)
    if args.steps:
        tried = trial.attempt(run, where, args.steps)
        if loop.is_main():
            print(f"{args.training}: {tried}; nothing was kept")
        return 0
    weights.check(todo, args.results)
    with _progress():
        result = train.complete(run, where)
    if loop.is_main():
        print(f"{args.training}: {result.miou:.2f}, in {run.folder(args.results)}")
    return 0


def _shared(run: "Run") -> "Run":
    """Return the run, or where the processes of ``torchrun`` cannot share its microbatches that of smaller ones."""
    from agmm.papers import tables
    from agmm.training import presets

    world, batch = int(os.environ.get("WORLD_SIZE", 1)), run.batch_size
    if batch // run.microbatch % world == 0:
        return run
    if batch % world:
        raise ValueError(f"{world} processes cannot share a batch of {batch}; start torchrun with a divisor of {batch}")
    smaller = presets.composed(run.preset, [f"microbatch{batch // world}"])
    if os.environ["RANK"] == "0":
        print(f"{world} processes take {batch // world} images each: this is a run of the preset {smaller}", flush=True)
    ours, theirs = (tables.needed(tables.TABLES, preset, 1) for preset in (run.preset, smaller))
    return next(other for one, other in zip(ours, theirs, strict=True) if one.id == run.id)


def find(training: str, preset: str) -> "Run":
    """Return the run with seed 0 that has a number or identity; raise ValueError if the preset has none."""
    from agmm.papers import tables

    tables.preset(preset)
    numbers = tables.trainings(tables.TABLES, preset)
    for run in tables.needed(tables.TABLES, preset, 1):
        if training in (run.id, numbers.get(run.id)):
            return run
    raise ValueError(
        f"the preset {preset} has no training {training!r}; "
        f"`python run_all.py --preset {preset} --only agmm --dry-run` lists them"
    )


# --- The commands -----------------------------------------------------------------------------------------------------


def _tool(help: str, module: str, resumed: str = "") -> Command:
    """Return a command whose ``arguments`` and ``command`` stand in a module, which is imported when it is chosen."""
    return Command(
        help,
        lambda parser: import_module(module).arguments(parser),
        lambda args: import_module(module).command(args),
        resumed=resumed,
    )


_GOES_ON = "the same command goes on where it stopped"
_RESUMES = "the same command resumes after the last finished epoch"

COMMANDS = {
    "check": Command("Say what a folder holds and what is wrong with it.", _folder_arguments, _check, "own"),
    "train": Command(
        "Train on a folder of images with sparse labels.", _train_arguments, _train, "own", resumed=_RESUMES
    ),
    "predict": Command("Predict the masks of a folder of images.", _predict_arguments, _predict, "own"),
    "run": Command("Train a single run of the papers' tables.", _run_arguments, _run, resumed=_RESUMES),
    "download": _tool("Fetch a public data set or ImageNet weights.", "agmm.data.public.download", _GOES_ON),
    "masks": _tool("Make masks from the annotations of COCO or DensePose.", "agmm.data.public.masks", _GOES_ON),
    "released": _tool("Test a checkpoint that the released code of AGMM has trained.", "agmm.tools.released"),
    "compare": _tool("Set a method of your own beside the rows of a table.", "agmm.tools.compare", _RESUMES),
    "report": _tool("Write one page about all results of a preset.", "agmm.report"),
    "bench": _tool("Measure how fast the package is.", "agmm.tools.bench"),
}
