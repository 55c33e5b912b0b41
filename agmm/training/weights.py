"""Network of a run, new or with the weights of the complete run; weights as files."""

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from agmm import networks
from agmm.host import atomic_files
from agmm.training.run import AnyObjective, Run, objective_for


def build_network(run: Run, num_classes: int) -> networks.Segmenter:
    """Return the network of a run with the head initialization of its seed."""
    torch.manual_seed(run.seed)
    init = "imagenet" if run.init == "imagenet" else "scratch"
    return networks.build(run.network, num_classes, init=init, **dict(run.network_options))


def start_from(net: networks.Segmenter, trained: Run, results: Path) -> None:
    """Give a new network the weights of a complete run, and train nothing but its new classifier."""
    fresh = {name: value.clone() for name, value in net.head.classifier.state_dict().items()}
    load_weights(net, weights(trained, results), trained.id)
    net.head.classifier.load_state_dict(fresh)
    net.freeze()


def load_network(run: Run, results: Path, num_classes: int, device: torch.device) -> networks.Segmenter:
    """Return the network of a complete run in eval mode, with the weights that the run has trained or tested."""
    run = run.trained or run
    net = build_network(run, num_classes)
    load_weights(net, weights(run, results), run.id)
    return net.to(device).to(memory_format=torch.channels_last).eval()


def load_objective(run: Run, results: Path, num_classes: int, device: torch.device) -> AnyObjective:
    """Return the objective of a complete run, with the parameters that it had at the end of the training."""
    run = run.trained or run
    objective = objective_for(run, build_network(run, num_classes), num_classes)
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
