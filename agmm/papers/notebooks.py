"""Notebooks: their parameters, and their execution by the interpreter that runs now."""

import ast
import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat

from agmm.host import atomic_files, machine

Task = tuple[Path, Path, dict[str, Any]]  # a notebook, where its executed copy goes, and its parameters


def parameters(path: Path) -> dict[str, Any]:
    """Return the defaults in the notebook's one cell tagged ``parameters``, which holds only plain literals.

    Raise FileNotFoundError if there is no such notebook, ValueError if it has no such cell, or several.
    """
    if not path.exists():
        raise FileNotFoundError(f"no notebook {path}; run from a checkout of the repository")
    cells = nbformat.read(path, as_version=4).cells
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{path} has {len(tagged)} cells tagged parameters, not one")
    defaults = {}
    for statement in ast.parse(tagged[0].source).body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            raise ValueError(f"{path}: the parameters cell holds more than plain assignments")
        defaults[statement.targets[0].id] = ast.literal_eval(statement.value)
    return defaults


def check(path: Path, given: dict[str, Any]) -> None:
    """Refuse parameters that the notebook does not declare, as papermill would only warn about them."""
    known = parameters(path)
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{path} does not declare the parameter {', '.join(unknown)}; it has {', '.join(known)}")


def execute_all(tasks: dict[str, Task], jobs: int) -> Iterator[tuple[str, str | None]]:
    """Execute several notebooks, ``jobs`` at a time; yield each name as it ends, with what went wrong or None."""
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        for name, task in tasks.items():
            yield name, _attempt(*task)
        return
    lost = []
    for name, wrong in _in_processes(tasks, jobs):
        if wrong is _DIED:  # which takes along all that run beside it
            lost.append(name)
        else:
            yield name, wrong
    for name in lost:
        yield from _in_processes({name: tasks[name]}, 1)


_DIED = "its process died (killed, or out of memory)"


def _in_processes(tasks: dict[str, Task], jobs: int) -> Iterator[tuple[str, str | None]]:
    """Execute notebooks in processes, as papermill changes the current folder of the whole process."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=machine.end_with_parent) as pool:
        names = {pool.submit(_attempt, *task): name for name, task in tasks.items()}
        for done in as_completed(names):
            yield names[done], _DIED if isinstance(done.exception(), BrokenProcessPool) else done.result()


def _attempt(path: Path, target: Path, given: dict[str, Any]) -> str | None:
    """Execute a notebook and return what went wrong; exceptions end here, as not all survive the way back."""
    try:
        execute(path, target, given)
    except atomic_files.StorageError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def execute(path: Path, target: Path, given: dict[str, Any]) -> None:
    """Execute a notebook in its own folder; the copy is kept even if a cell fails with PapermillExecutionError."""
    import papermill
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisInterpreter(AsyncKernelManager):
        """A kernel called python3 in the user's home may belong to another environment; this one never does."""

        @property
        def kernel_spec(self) -> KernelSpec:
            spec = get_kernel_dict()
            # Neither its remark on unencrypted local sockets nor its end are anything that a reader could act on.
            return KernelSpec(**spec | {"argv": [*spec["argv"], "--log-level=CRITICAL"]})

    logging.getLogger("papermill").setLevel(logging.ERROR)
    with atomic_files.writable(target.parent), atomic_files.replacing(target) as temporary:
        kernel = {"kernel_name": "python3", "language": "python", "kernel_manager_class": ThisInterpreter}
        where = {"cwd": str(path.parent), "progress_bar": False}
        papermill.execute_notebook(str(path), str(temporary), parameters=given, **kernel, **where)
