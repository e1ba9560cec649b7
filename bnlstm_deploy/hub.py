"""Models on the Hugging Face hub: `BNLSTM` and `BNLSTMModel` with huggingface_hub's mixin.

A repository, or a folder of that shape, holds config.json and model.safetensors, which `load` reads
as well; model.onnx, checked against them; and a card of measured facts.
"""

import platform
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

from bnlstm_deploy import nn
from bnlstm_deploy.checkpoint import load_checkpoint, save_checkpoint
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.extras import require

require("huggingface_hub", extra="hub")

from huggingface_hub import ModelCard, ModelHubMixin  # noqa: E402

from bnlstm_deploy.cli.bench import measure  # noqa: E402
from bnlstm_deploy.download import download  # noqa: E402
from bnlstm_deploy.exporting import export  # noqa: E402
from bnlstm_deploy.runtime import Session  # noqa: E402
from bnlstm_deploy.verification import record, verify  # noqa: E402

ONNX = "model.onnx"
CARD = "README.md"
SECONDS = 0.3
"""For measuring what a timestep costs."""


class _Hub(ModelHubMixin, library_name="bnlstm-deploy", license="apache-2.0"):
    """Saving and loading, shared by both classes."""

    _measured: Mapping[str, str] = MappingProxyType({})
    """For the card: what saving measured."""

    def _save_pretrained(self, save_directory: Path) -> None:
        assert isinstance(self, nn.BNLSTM | nn.BNLSTMModel)
        save_checkpoint(self, save_directory, force=True)
        path = save_directory / ONNX
        metadata = export(self, path, force=True)
        report = verify(self, path, search_seconds=0)
        if not report.passed:
            path.unlink()
            raise InputError(f"{path} does not compute what the model computes: {report}")
        record(report, path)
        session = Session(path, intra_op_num_threads=1)
        time = metadata.length or metadata.steps
        cost = measure(session, 1, time, SECONDS)["us_per_timestep"]
        size = (save_directory / "model.safetensors").stat().st_size
        self._measured = {
            "model.safetensors": f"{size / 1e6:.2f} MB",
            ONNX: f"{path.stat().st_size / 1e6:.2f} MB, {metadata.numbers}, form "
            f"{metadata.form}, {metadata.steps} steps of statistics",
            "verified": str(report),
            "a timestep": f"{cost:.1f} us, of one stream over {time}, on one thread of "
            f"{platform.machine()}, {session.native}",
        }
        (save_directory / CARD).unlink(missing_ok=True)  # of what was saved before

    def generate_model_card(self, metrics: Mapping[str, object] | None = None) -> ModelCard:
        """Return a card of measured facts.

        Args:
            metrics: What you measured, such as the accuracy on a test set, by name: in
                `save_pretrained(folder, model_card_kwargs={"metrics": {"test accuracy": 0.98}})`.
        """
        assert isinstance(self, nn.BNLSTM | nn.BNLSTMModel)
        facts = {"parameters": f"{sum(p.numel() for p in self.parameters()):,}"}
        facts |= {name: str(value) for name, value in (metrics or {}).items()}
        rows = "".join(
            f"| {name} | {fact} |\n" for name, fact in {**facts, **self._measured}.items()
        )
        return ModelCard(
            "---\nlicense: apache-2.0\nlibrary_name: bnlstm-deploy\ntags: [bn-lstm, onnx]\n---\n"
            f"# {type(self).__name__}\n\nA batch-normalized LSTM (Cooijmans et al. 2016, arXiv "
            f"1603.09025).\n\n    {self}\n\n| | |\n|---|---|\n{rows}"
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: object,
    ) -> Self:
        """Load a model from the hub, from its cache, or from a folder.

        Args:
            pretrained_model_name_or_path: A hub id such as "someone/digits", or a folder.
            force_download: Whether to fetch what is in the cache already.
            token: Of the hub.
            cache_dir: The hub's cache, where it is not in its usual place.
            local_files_only: Whether to take what is in the cache and ask no network.
            revision: A branch, tag or commit.
            model_kwargs: None: a model is what its config.json says.

        Raises:
            InputError: No such model, or one of the other class.
        """
        if model_kwargs:
            raise InputError(
                f"{sorted(model_kwargs)} cannot be changed: a model is what its config.json says"
            )
        model_id = pretrained_model_name_or_path
        folder = download(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        model = load_checkpoint(folder)
        if not issubclass(cls, type(model)):
            raise InputError(
                f"{model_id} holds a {type(model).__name__}; load it with "
                f"bnlstm_deploy.hub.{type(model).__name__}.from_pretrained"
            )
        new = object.__new__(cls)
        new.__dict__.update(model.__dict__)  # a module is its dict: the same, of another class
        return new


class BNLSTM(_Hub, nn.BNLSTM):
    """`bnlstm_deploy.BNLSTM` with from_pretrained, save_pretrained and push_to_hub."""


class BNLSTMModel(_Hub, nn.BNLSTMModel):
    """`bnlstm_deploy.BNLSTMModel` with from_pretrained, save_pretrained and push_to_hub."""
