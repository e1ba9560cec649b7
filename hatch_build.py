"""Builds the native kernel's library into the wheel, which is then one of a platform.

Where there is none to be had the wheel is pure: the package works without. The environment
variable `BNLSTM_DEPLOY_WHEEL` asks for a wheel: a platform of `bnlstm_deploy.native.build`, such as
`linux-aarch64`, must then be built, from whatever machine this is; `any` is the pure wheel.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))

from bnlstm_deploy.errors import BnlstmError, InputError
from bnlstm_deploy.native import digest_path
from bnlstm_deploy.native.build import PLATFORMS, build, this_platform


class NativeBuildHook(BuildHookInterface[BuilderConfig]):
    """The hook that hatchling runs for wheels and editable installations."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library, add it to the wheel, and set the wheel's tag.

        Raises:
            InputError: `BNLSTM_DEPLOY_WHEEL` is not the name of a wheel.
            BnlstmError: The wheel that it asks for cannot be built.
        """
        self.temporary = tempfile.TemporaryDirectory()
        asked = os.environ.get("BNLSTM_DEPLOY_WHEEL")
        if asked == "any":
            return
        if asked and asked not in PLATFORMS:
            raise InputError(
                f"BNLSTM_DEPLOY_WHEEL is {asked!r}; set it to one of any, {', '.join(PLATFORMS)}"
            )
        try:
            platform = PLATFORMS[asked or this_platform()]
            file = Path("bnlstm_deploy", "native", platform.library)
            # An editable installation runs the checkout's files; a wheel leaves them as they are.
            output = Path(self.temporary.name, file.name)
            if version == "editable":
                output = Path(self.root, file)
            build(output, platform.target)
        except BnlstmError as error:
            if asked:
                raise
            self.app.display_warning(f"WITHOUT THE NATIVE KERNEL, a pure wheel: {error}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform.tag}"
        if version != "editable":
            for made, name in ((output, file), (digest_path(output), digest_path(file))):
                build_data["force_include"][str(made)] = name.as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary folder, now that the wheel is written."""
        self.temporary.cleanup()
