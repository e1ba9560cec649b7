"""The wheel's build hook, and the library that it makes."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bnlstm_deploy.errors import BnlstmError, InputError
from bnlstm_deploy.native import digest_path, library_path
from bnlstm_deploy.native.build import INSTRUCTION_SETS, PLATFORMS, build, this_platform
from bnlstm_deploy.runtime.kernel import instruction_sets
from tools.wheels import MAX_BYTES, embedded, library_faults, library_of, make

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HERE = PLATFORMS[this_platform()]
NO_COMPILER = {"PATH": str(Path(sys.executable).parent)}


def build_wheel(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel of this checkout, with the packages that are installed."""
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_library_needs_little_and_shows_one_symbol():
    assert library_faults(library_path().read_bytes(), HERE) == []


def test_faults_are_found(tmp_path):
    source = tmp_path / "faulty.c"
    source.write_text(
        "int wrong(void) { return 0; }\n" + f"char large[{MAX_BYTES + embedded()}] = {{1}};\n"
    )
    library = tmp_path / HERE.library
    command = (sys.executable, "-m", "ziglang", "cc", "-shared", "-lpthread", "-fPIC")
    subprocess.run([*command, source, "-o", library], check=True)
    faults = library_faults(library.read_bytes(), HERE)
    assert any(f"bytes, more than {MAX_BYTES}" in fault for fault in faults)
    assert any("it exports large, wrong" in fault for fault in faults)
    assert library_faults(b"no library", HERE) == ["it is no library"]


def test_the_wheel_of_this_machine_without_a_compiler_on_the_path(tmp_path):
    done = build_wheel(tmp_path, **NO_COMPILER)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith(f"-py3-none-{HERE.tag}.whl")
    library = library_of(wheel, HERE)
    assert library_faults(library, HERE) == []
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        digest = archive.read(f"bnlstm_deploy/native/{digest_path(Path(HERE.library)).name}")
    assert digest.decode().strip() == hashlib.sha256(library).hexdigest()
    assert "bnlstm_deploy/native/src/kernel.cpp" in names
    assert sum(name.endswith((".so", ".dylib", ".dll")) for name in names) == 1


def test_a_pure_wheel(tmp_path):
    done = build_wheel(tmp_path, BNLSTM_DEPLOY_WHEEL="any")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not any(name.endswith((".so", ".sha256")) for name in archive.namelist())


def test_a_wheel_that_nobody_knows(tmp_path):
    done = build_wheel(tmp_path, BNLSTM_DEPLOY_WHEEL="linux-sparc")
    assert done.returncode
    assert "BNLSTM_DEPLOY_WHEEL is 'linux-sparc'; set it to one of any, linux-x86_64" in done.stderr
    assert not list(tmp_path.iterdir())


def test_where_there_is_no_native_build_the_wheel_is_pure_and_says_so(tmp_path):
    """Such as on a machine whose platform has none."""
    code = (
        "import sysconfig; sysconfig.get_platform = lambda: 'linux-sparc'\n"
        "from hatchling.cli import hatchling; import sys; sys.exit(hatchling())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WITHOUT THE NATIVE KERNEL, a pure wheel: there is no native kernel for" in (
        done.stdout + done.stderr
    )
    (wheel,) = tmp_path.iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")


@pytest.mark.parametrize("name", ["linux-aarch64", "macosx-arm64"])
def test_another_platform_from_here(tmp_path, name):
    platform = PLATFORMS[name]
    library = library_of(make(name, tmp_path), platform)
    assert library_faults(library, platform) == []


def test_what_the_compiler_says_is_in_the_error(tmp_path):
    with pytest.raises(BnlstmError, match=r"(?s)could not be compiled.*-fno-such-option"):
        build(tmp_path / "library", flags=["-fno-such-option"])
    with pytest.raises(BnlstmError, match="no-such-compiler cannot be run"):
        build(tmp_path / "library", compiler=["no-such-compiler"])
    with pytest.raises(InputError):
        build(tmp_path / "no" / "library")
    assert not list(tmp_path.iterdir())


def test_every_instruction_set_that_was_built_is_known(monkeypatch):
    built = INSTRUCTION_SETS[HERE.target.partition("-")[0]]
    assert {*instruction_sets()} <= {*built}
    assert instruction_sets()[0] == next(iter(built))


def test_the_command_builds_in_place(tmp_path):
    package = tmp_path / "bnlstm_deploy"
    shutil.copytree(
        ROOT / "bnlstm_deploy", package, ignore=shutil.ignore_patterns("*.so", "*.sha256")
    )
    done = subprocess.run(
        [sys.executable, "-m", "bnlstm_deploy.native.build"],
        cwd=tmp_path,
        env=os.environ | NO_COMPILER,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == package / "native" / HERE.library
    assert (package / "native" / HERE.library).read_bytes() == library_path().read_bytes()
