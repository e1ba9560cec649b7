"""Builds the stub CUDA libraries: python -m tests.cuda_stub.build FOLDER."""

import subprocess
import sys
import sysconfig
from pathlib import Path

SOURCES = Path(__file__).parent

LIBRARIES = {
    "libcudart.so.13": ("report", "device", "memory", "stream", "kernels", "unused"),
    "libcublas.so.13": ("cublas",),
    "libcublasLt.so.13": ("cublaslt",),
    "libcurand.so.10": ("curand",),
    "libcuda.so.1": ("cuda",),
    "libcudnn.so.9": ("cudnn",),
}
"""Sources of each; all but the first count with the functions of the first."""

FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")


def build(folder: Path) -> None:
    """Build the libraries that are older than a source, or are not there.

    Raises:
        RuntimeError: The headers of CUDA's runtime are not installed.
    """
    include = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "include")
    if not (include / "crt" / "host_defines.h").is_file():
        raise RuntimeError(
            f"{include} has no headers of CUDA; install nvidia-cuda-runtime and nvidia-cuda-crt"
        )
    folder.mkdir(parents=True, exist_ok=True)
    runtime = folder / next(iter(LIBRARIES))
    newest = max(path.stat().st_mtime for path in SOURCES.glob("*.[ch]"))
    for name, sources in LIBRARIES.items():
        library, versions = folder / name, folder / f"{name}.map"
        if library.exists() and library.stat().st_mtime > newest:
            continue
        # The provider asks for symbols of the version that the library is called.
        versions.write_text(f"{name} {{ global: *; }};\n")
        subprocess.run(
            [
                *("gcc", *FLAGS, f"-isystem{include}"),
                *(SOURCES / f"{source}.c" for source in sources),
                *([] if library == runtime else [runtime]),
                *(f"-Wl,-soname,{name}", f"-Wl,--version-script={versions}", "-o", library),
            ],
            check=True,
        )


if __name__ == "__main__":
    build(Path(sys.argv[1]))
