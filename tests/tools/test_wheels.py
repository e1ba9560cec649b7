"""The checks of `make wheels`, on a wheel of Linux. Libraries: tests/native/test_build.py, too."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest

from bnlstm_deploy.native.build import PLATFORMS
from tools import wheels

NAME = "linux-x86_64"
LINUX = PLATFORMS[NAME]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return wheels.make(NAME, tmp_path_factory.mktemp("dist"))


def compile_c(source: str, target: str, library: Path, *flags: str) -> None:
    """Compile a library that is not the kernel's."""
    path = library.with_suffix(".c")
    path.write_text(source)
    command = (sys.executable, "-m", "ziglang", "cc", "-target", target, "-shared", "-fPIC", *flags)
    subprocess.run([*command, path, "-o", library], check=True)


def test_a_wheel_is_as_its_tag_says(wheel):
    assert wheel.name.endswith(f"-py3-none-{LINUX.tag}.whl")
    assert wheels.policy_faults(wheel) == []


def test_a_library_that_needs_a_newer_glibc(wheel, tmp_path):
    newer = tmp_path / LINUX.library
    # Since 2.34 threads are in libc itself, under a version of that name.
    source = "#include <pthread.h>\nvoid *f(void *(*g)(void *)) { pthread_t t; "
    source += "pthread_create(&t, 0, g, 0); return 0; }\n"
    compile_c(source, "x86_64-linux-gnu.2.34", newer)
    other = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(other, "w") as new:
        for info in old.infolist():
            own = info.filename.endswith(LINUX.library)
            new.writestr(info, newer.read_bytes() if own else old.read(info))
    (fault,) = wheels.policy_faults(other)
    assert fault == "auditwheel finds it consistent with manylinux_2_34_x86_64 only"


def test_a_library_that_needs_another(tmp_path):
    library = tmp_path / LINUX.library
    source = "#include <sys/mman.h>\nint RegisterCustomOps(void) { return shm_unlink(0); }\n"
    compile_c(source, "x86_64-linux-gnu.2.17", library, "-lrt")
    assert wheels.library_faults(library.read_bytes(), LINUX) == ["it needs librt.so.1"]


@pytest.mark.parametrize(("most", "status"), [(wheels.MAX_BYTES, 0), (1000, 1)])
def test_a_fault_is_an_error(wheel, tmp_path, monkeypatch, capsys, most, status):
    monkeypatch.setattr(wheels, "make", lambda _, folder: Path(shutil.copy(wheel, folder)))
    monkeypatch.setattr(wheels, "PLATFORMS", {NAME: LINUX})
    monkeypatch.setattr(wheels, "DIST", tmp_path)
    monkeypatch.setattr(wheels, "MAX_BYTES", most)
    with pytest.raises(SystemExit) as caught:
        wheels.main()
    assert caught.value.code == status
    assert NAME in (printed := capsys.readouterr().out)
    assert ("more than" in printed) == bool(status)


def test_a_second_build_is_the_same_file(wheel, tmp_path):
    assert wheels.same_again(partial(wheels.make, NAME), wheel) == []
    other = tmp_path / wheel.name
    other.write_bytes(wheel.read_bytes()[:-1])
    assert wheels.same_again(partial(wheels.make, NAME), other) == [
        "a second build is another file"
    ]


def test_the_source_distribution_has_all_that_git_tracks(tmp_path):
    sdist = wheels.make_sdist(tmp_path)
    assert wheels.same_again(wheels.make_sdist, sdist) == []
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=False)
    if tracked.returncode:  # this is an unpacked one
        pytest.skip("no repository")
    assert set(tracked.stdout.splitlines()) <= packed
    assert not any(name.endswith((".so", ".sha256", ".pyc")) for name in packed)


def test_an_installation_is_listed_with_versions():
    found = dict(line.split("==") for line in wheels.pinned(("cpu", "serve")))
    assert found["onnxruntime"] == metadata.version("onnxruntime")
    assert {"numpy", "uvicorn", "tritonclient", "protobuf"} <= found.keys()
    assert not {"torch", "bnlstm-deploy", "ray", "pytest"} & found.keys()
    assert "uvicorn" not in dict(line.split("==") for line in wheels.pinned(("cpu",)))
