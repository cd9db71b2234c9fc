import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from foundry.install import installer, sources
from foundry.install.builds import ROOT, choose_build, light_build, read_builds
from foundry.install.failures import InstallError, explain, lacks_package, unreachable

_NO_NETWORK = (
    "error: Failed to fetch: `https://index.example/simple/rich/`\n"
    "  Caused by: error sending request for url: dns error: failed to lookup address"
)
_NOT_THERE = (
    "  x No solution found when resolving dependencies:\n"
    "  ╰─▶ Because there is no version of torch==2.13.0+cpu and you require torch==2.13.0+cpu, "
    "we can conclude that your requirements are unsatisfiable."
)


def test_an_unreachable_index_is_not_a_missing_package() -> None:
    assert unreachable(_NO_NETWORK)
    assert not lacks_package(_NO_NETWORK)
    assert lacks_package(_NOT_THERE)
    assert not unreachable(_NOT_THERE)
    assert explain(_NO_NETWORK, "installing x").startswith(
        "https://index.example/simple/rich/ cannot be reached while installing x: check the network"
    )
    assert "a package is missing from your sources while installing x" in explain(
        _NOT_THERE, "installing x"
    )


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("error: No space left on device (os error 28)", "no space is left on the disk"),
        ("error: Hash mismatch for `rich==1`", "differs from the lock"),
        ("error: boom\nreason here", "reason here"),
    ],
)
def test_other_failures_have_their_own_sentence(output: str, sentence: str) -> None:
    assert sentence in explain(output, "installing x")


def test_pips_sources_become_uvs() -> None:
    pip = {
        "find-links": "/a /b",
        "index-url": "https://mirror/simple",
        "extra-index-url": "https://x/simple\nhttps://y/simple",
        "cert": "/ca.pem",
    }
    found = sources.uv_environment(pip, {})
    assert found["UV_FIND_LINKS"] == "/a,/b"
    assert found["UV_DEFAULT_INDEX"] == "https://mirror/simple"
    assert found["UV_INDEX"] == "https://x/simple https://y/simple"
    assert found["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert found["SSL_CERT_FILE"] == "/ca.pem"


def test_uvs_own_variables_win() -> None:
    pip = {"find-links": "/a", "index-url": "https://mirror/simple"}
    environment = {"UV_FIND_LINKS": "/mine", "UV_INDEX_URL": "https://mine/simple"}
    found = sources.uv_environment(pip, environment)
    assert "UV_FIND_LINKS" not in found
    assert "UV_DEFAULT_INDEX" not in found


def test_pips_variables_are_read_through_pip(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "/wheels",
        "PIP_NO_INDEX": "1",
    }
    found = sources.pip_configuration([sys.executable, "-m", "pip"], environment)
    assert found["find-links"] == "/wheels"
    assert sources.offline(found, {})


def test_the_stamp_follows_the_lock(tmp_path: Path) -> None:
    build = choose_build("cpu")
    assert installer.stamp_text(build) == installer.stamp_text(build)
    assert installer.stamp_text(build) != installer.stamp_text(light_build())
    assert installer.read_stamp(tmp_path) == ""


def test_a_finished_environment_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nothing is asked from the network after the installation."""
    (tmp_path / ".foundry-lock").write_text(installer.stamp_text(light_build()))

    def never(*_: object) -> None:
        raise AssertionError("nothing may be installed")

    monkeypatch.setattr(installer.Installation, "run", never)
    installer.install(tmp_path, light=True)


def test_names_are_read_from_a_lock() -> None:
    lock = (
        "# comment\nrich==15.0 \\\n    --hash=sha256:aa==\nuv==0.13.8 ; python_version > '3' \\\n"
    )
    assert installer.locked_names(lock) == {"rich", "uv"}


def test_too_little_space_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match=r"GiB free and the installation needs 1000000000"):
        installer.require_space(tmp_path, 10**9)


def test_another_python_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "version_info", (3, 13, 1))
    with pytest.raises(InstallError, match=r"are for Python 3\.11 and this is 3\.13"):
        installer.base_python(choose_build("cpu"))


def test_any_python_that_the_lock_is_for_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 1))
    assert installer.base_python(choose_build("nvidia")) == sys.executable
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert installer.base_python(choose_build("nvidia")) == "/usr/bin/python3.11"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InstallError, match=r"are for Python 3\.11 or 3\.12 or 3\.13 and this"):
        installer.base_python(choose_build("nvidia"))


@pytest.mark.parametrize("accelerator", ["cpu", "nvidia", "amd"])
def test_torch_comes_from_the_lock_or_from_its_index(
    accelerator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lock torch brings what it needs, and the package index's CUDA build is no match."""
    build = read_builds()[accelerator]
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(installer, "pip_configuration", lambda pip, environment: {})
    monkeypatch.setattr(installer.Installation, "_make_venv", lambda self, fresh: None)
    monkeypatch.setattr(installer.Installation, "_install_uv", lambda self: None)
    monkeypatch.setattr(installer.Installation, "_uv", lambda self, *words: calls.append(words))
    installer.Installation(tmp_path, build, sys.executable).run()
    torch = [words for words in calls if words[-1].startswith("torch==")]
    rest = calls[len(torch)]
    assert (
        torch
        == {
            "cpu": [("--no-deps", "torch==2.13.0+cpu")],
            "nvidia": [],
            "amd": [("torch==2.13.0+rocm7.2",)],
        }[accelerator]
    )
    if build.lock is not None:
        assert rest == ("--no-deps", "--require-hashes", "--requirements", str(build.lock))
    else:
        assert rest[-1] == f"{ROOT}[engine,bundled,dev]"
        overrides = (tmp_path / ".foundry-overrides").read_text()
        assert "llama-cpp-python" in overrides and "torchvision" not in overrides


def test_the_first_file_parses_on_old_pythons() -> None:
    text = (ROOT / "foundry/install/bootstrap.py").read_text()
    tree = ast.parse(text, feature_version=(3, 4))
    assert not any(isinstance(node, ast.JoinedStr | ast.AnnAssign) for node in ast.walk(tree))


def test_an_old_python_is_told_what_to_install() -> None:
    code = (
        "import sys, runpy; sys.version_info = (3, 8, 10); "
        "runpy.run_path('foundry/install/bootstrap.py', run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: Foundry needs Python 3.11 or newer and this is 3.8:")
    assert "install python3.11" in result.stderr


def test_an_environment_of_another_build_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the CPU's lock drops, torch and vLLM among it, the other build has under that name."""
    made: list[bool] = []
    monkeypatch.setattr(
        installer.Installation, "_make_venv", lambda self, fresh: made.append(fresh)
    )
    for step in ("_install_uv", "_install_rest"):
        monkeypatch.setattr(installer.Installation, step, lambda self: None)
    monkeypatch.setattr(installer.Installation, "_install_torch", lambda self, torch: None)
    monkeypatch.setattr(installer.Installation, "_uv", lambda self, *arguments: None)
    monkeypatch.setattr(installer, "pip_configuration", lambda pip, environment: {})
    for accelerator in ("cpu", "cpu", "nvidia", "nvidia", "cpu"):
        build = choose_build(accelerator)
        installer.Installation(tmp_path, build, sys.executable).run()
        assert installer.read_accelerator(tmp_path) == accelerator
    assert made == [False, False, True, False, True]


def test_an_older_environment_tells_its_build_in_its_stamp(tmp_path: Path) -> None:
    assert installer.read_accelerator(tmp_path) is None
    stamp = installer.stamp_text(choose_build("nvidia"))
    (tmp_path / installer._STAMP).write_text(stamp)
    assert installer.read_accelerator(tmp_path) == "nvidia"
