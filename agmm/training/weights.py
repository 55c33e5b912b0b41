"""Network of a run, new or with the weights of the complete run; weights as files."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from filelock import FileLock
from torch import nn

from agmm import networks
from agmm.host import atomic_files
from agmm.networks import transformers
from agmm.training.run import AnyObjective, Run, objective_for


def build_network(run: Run, num_classes: int, *, filled: bool = True) -> networks.Segmenter:
    """Return the network of a run with the head initialization of its seed; not ``filled`` where weights follow."""
    torch.manual_seed(run.seed)
    filled &= not run.init_weights and run.method != "SPMLClassifier"
    init = "scratch" if run.init != "imagenet" else "imagenet" if filled else "later"
    return networks.build(run.network, num_classes, init=init, **dict(run.network_options))


def check(runs: Iterable[Run], results: Path) -> None:
    """Load all ImageNet weights that runs start from once, from timm's cache or its hub, and compare (`remember`)."""
    needed = {}
    for run in runs:
        alone = run.trained is None and run.method != "SPMLClassifier"  # not from the weights of another run
        if alone and run.init == "imagenet" and not run.init_weights:
            needed[run.network, dict(run.network_options).get("weights")] = run
    for run in needed.values():
        remember(build_network(run, 2).provenance, results)


def remember(provenance: str, results: Path) -> None:
    """Record the sha256 of weights at their first use below a results folder; ValueError where it has changed."""
    found = re.fullmatch("(.*), sha256 ([0-9a-f]{64}).*", provenance)
    if found is None:
        return
    (name, digest), path = found.groups(), results / "weights.json"
    with atomic_files.writable(results), FileLock(path.with_suffix(".lock")):
        known = json.loads(path.read_text()) if path.exists() else {}
        if known.setdefault(name, digest) != digest:
            was = f"have the sha256 {digest[:10]}…, and {path} knows {known[name][:10]}… since their first use"
            raise ValueError(f"the weights of {name} {was}; bring those back, or remove the line to go on with these")
        atomic_files.write_json(path, known)


def keep_init(file: Path, results: Path, report: Callable[[str], object] = print) -> str:
    """Keep the weights of a file below a results folder for runs that start from it, and return the preset's word.

    The file is a state dict as PyTorch or safetensors write it, perhaps inside of ``state_dict`` or ``model`` and with
    names that begin with ``module.`` or ``backbone.``; names and shapes decide which network it is for. Tensors that
    the backbone does not have, such as a classifier's, are left out. ValueError where it lacks one.
    """
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        content = _load(file)
        content = next((content[name] for name in ("state_dict", "model") if name in content), content)
        stored = {re.sub(r"^(module\.|backbone\.)*", "", name): value for name, value in content.items()}
    except Exception as error:  # a damaged file may fail anywhere in the parser
        problem = atomic_files.one_line(error)
        raise ValueError(f"--init-weights {file} cannot be read as weights ({problem}); get it again") from error
    lacking: dict[str, list[str]] = {}
    for network in (*reversed(networks.DEEP_STEM), "vit_base"):
        with torch.device("meta"):
            own = networks.build(network, 2).backbone.state_dict()
        named = transformers.renamed(stored) if network == "vit_base" else stored
        fit = {name: named[name] for name, value in own.items() if name in named and named[name].shape == value.shape}
        lacking[network] = [name for name in own if name not in fit and not name.endswith("num_batches_tracked")]
        if not lacking[network]:
            whose = {"sha256": digest, "file": file.name}
            report(f"{file}: {len(fit)} tensors are {network}'s backbone, {len(stored) - len(fit)} are left out")
            atomic_files.write(results / f"init-{digest[:10]}.safetensors", safetensors.torch.save(fit, whose))
            return f"{network}-{digest[:10]}"
    network, names = min(lacking.items(), key=lambda pair: len(pair[1]))
    problem = f"lacks {len(names)} tensors of {network}'s backbone, or has them in other shapes, {names[0]} first"
    raise ValueError(f"--init-weights {file} {problem}; give weights of a ResNet with a deep stem, or of a ViT-B/16")


def _load(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return safetensors.torch.load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def load_init(net: networks.Segmenter, run: Run, results: Path) -> None:
    """Give the backbone of a new network the weights that `keep_init` has kept."""
    path = results / f"init-{run.init_weights}.safetensors"
    if not path.exists():
        raise ValueError(f"{path} is missing, from which {run.preset} starts; name its file with --init-weights again")
    with safetensors.safe_open(path, "pt") as file:
        whose = file.metadata()
    net.backbone.load_state_dict(safetensors.torch.load_file(path), strict=False)  # some have no num_batches_tracked
    net.provenance = f"{run.network}, weights of {whose['file']}, sha256 {whose['sha256']}"


def start_from(net: networks.Segmenter, trained: Run, results: Path) -> None:
    """Give a new network the weights of a complete run, and train nothing but its new classifier."""
    fresh = {name: value.clone() for name, value in net.head.classifier.state_dict().items()}
    load_weights(net, weights(trained, results), trained.id)
    net.provenance = f"{net.provenance.partition(',')[0]}, weights of run {trained.id}"
    net.head.classifier.load_state_dict(fresh)
    net.freeze()


def load_network(run: Run, results: Path, num_classes: int, device: torch.device) -> networks.Segmenter:
    """Return the network of a complete run in eval mode, with the weights that the run has trained or tested."""
    run = run.trained or run
    net = build_network(run, num_classes, filled=False)
    load_weights(net, weights(run, results), run.id)
    return net.to(device).to(memory_format=torch.channels_last).eval()


def load_objective(run: Run, results: Path, num_classes: int, device: torch.device) -> AnyObjective:
    """Return the objective of a complete run, with the parameters that it had at the end of the training."""
    run = run.trained or run
    objective = objective_for(run, build_network(run, num_classes, filled=False), num_classes)
    if isinstance(objective, nn.Module):
        load_weights(objective, weights(run, results, "objective.safetensors"), run.id)
        objective.to(device).eval()
    return objective


def weights(run: Run, results: Path, name: str = "model.safetensors") -> Path:
    """Return the file of a complete run's weights; raise ValueError where it has been deleted."""
    path = run.folder(results) / name
    if not path.exists():
        raise ValueError(f"{path} is missing, and another run starts from it; delete its folder to train it again")
    return path


def own_start(results: Path, sha256: str) -> Path:
    """Return the file of the weights that a training on a user's images begins with."""
    return results / f"start-{sha256[:10]}.safetensors"


def save_weights(net: nn.Module, path: Path, run_id: str) -> None:
    """Write a state dict as safetensors, with the identity of its run."""
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    atomic_files.write(path, safetensors.torch.save(state, {"run": run_id}))


def load_weights(net: nn.Module, path: Path, run_id: str = "") -> None:
    """Read what `save_weights` has written; raise ValueError if it is damaged, or of another run or network.

    Without ``run_id`` it may be of any run.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            owner = (file.metadata() or {}).get("run", run_id) if run_id else ""  # older files do not say
        state = safetensors.torch.load_file(path)
        if owner == run_id:
            net.load_state_dict(state)
    except (safetensors.SafetensorError, RuntimeError) as error:
        problem = "is damaged or of another network"
        raise ValueError(f"{path} {problem}; delete its folder to train the run again") from error
    if owner != run_id:
        problem = f"holds the weights of run {owner}, not of {run_id}"
        raise ValueError(f"{path} {problem}; delete its folder to train it again")
