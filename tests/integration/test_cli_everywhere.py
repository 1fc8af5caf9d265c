"""What holds for every command: what it says where nothing runs, its exit code, and that the shell completes it."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest
from cli_process import bare_environ

from rayhaul.cli import main as cli
from rayhaul.cli.connect import Exit

JOB = "job_00000000000000000000000000"
#: Every command that asks a cluster, with as few words as it takes.
ASKING = (
    ("get", "https://files.example/data.tar"),
    ("get", "--no-wait", "https://files.example/data.tar"),
    ("import", "urls.txt"),
    ("jobs",),
    ("job", JOB),
    ("job", JOB, "--receipt"),
    ("cancel", JOB),
    ("pause", JOB),
    ("resume", JOB),
    ("retry", JOB),
    ("requeue", JOB),
    ("logs",),
    ("trace", JOB),
    ("top", "--once"),
    ("alerts",),
    ("slo",),
    ("hosts",),
    ("queue",),
    ("queue", "pause", "low"),
    ("queue", "resume", "low"),
    ("dlq",),
    ("dlq", "replay", JOB),
    ("agents",),
    ("agents", "drain", "agent-1"),
    ("keys", "list"),
    ("keys", "create", "alice"),
    ("webhooks", "log"),
    ("webhooks", "disabled"),
    ("webhooks", "test", "https://hooks.example/"),
)
#: Those that start, stop or look at something by themselves.
OTHERS = {"up", "down", "deploy", "undeploy", "storage-check", "grafana"}


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home in which no cluster was ever started."""
    for name in [name for name in os.environ if name.startswith(("RAYHAUL_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "urls.txt").write_text("https://files.example/data.tar\n")


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_where_nothing_runs(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence that says what to do, nothing on stdout, and the exit code for it."""
    monkeypatch.setattr(sys, "argv", ["rayhaul", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr()
    assert ended.value.code == Exit.UNREACHABLE
    assert shown.out == ""
    assert shown.err.startswith("rayhaul: ")
    assert "rayhaul up" in shown.err
    assert "RAYHAUL_URL" in shown.err
    # `import` adds how far it came, and that the same command goes on from there.
    assert len(shown.err.splitlines()) == (2 if words[0] == "import" else 1)


def test_every_command_is_looked_at() -> None:
    """A new one has to be put on one of the lists."""
    names = {
        command.name or command.callback.__name__.replace("_", "-")
        for command in cli.app.registered_commands
        if command.callback is not None
    }
    names |= {str(group.name) for group in cli.app.registered_groups}
    assert names == {words[0] for words in ASKING} | OTHERS


async def said_by(shell: str, *options: str, home: Path, script: str) -> list[str]:
    """Return the lines that a script of this shell says where `rayhaul` is the one under test."""
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell} (Debian: apt-get install {shell})")
    environ = bare_environ(home)
    process = await asyncio.create_subprocess_exec(
        *(shell, *options, "-c", script),
        env={**environ, "PATH": f"{Path(sys.executable).parent}:{environ['PATH']}"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(120):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert stderr.decode() == ""
    return [line.strip() for line in stdout.decode().splitlines()]


async def test_bash_completes_it(tmp_path: Path) -> None:
    """After `--install-completion` a new bash knows commands, commands of groups, and options."""
    script = """
        rayhaul --show-completion | grep -q _rayhaul_completion && echo shown
        rayhaul --install-completion > ~/said
        bash --norc -c '
            source ~/.bashrc
            complete -p rayhaul
            tell() {
                COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
                _rayhaul_completion rayhaul
                echo "${COMPREPLY[@]}"
            }
            tell rayhaul storage
            tell rayhaul queue pa
            tell rayhaul get --prio
        '
    """
    shown, completes, *told = await said_by("bash", "--norc", home=tmp_path, script=script)
    assert shown == "shown"
    assert completes == "complete -o default -F _rayhaul_completion rayhaul"
    assert told == ["storage-check", "pause", "--priority"]


async def test_zsh_completes_it(tmp_path: Path) -> None:
    """The same on a new zsh's own line, in a terminal, by the widget that Tab is bound to.

    The first of a shell only loads Typer's script, and completes nothing.
    """
    script = """
        rayhaul --install-completion > ~/said
        cat >> ~/.zshrc <<"END"
            tell() {
                for typed in "rayhaul " "rayhaul storage" "rayhaul queue pa" "rayhaul get --prio"; do
                    BUFFER=$typed CURSOR=$#typed
                    zle complete-word
                    print -r -- $BUFFER >> ~/told
                done
                exit
            }
            zle -N zle-line-init tell
END
        zmodload zsh/zpty
        zpty new zsh -i
        while zpty -r new shown; do :; done
        cat ~/told
    """
    told = await said_by("zsh", "-f", home=tmp_path, script=script)
    assert told[1:] == ["rayhaul storage-check", "rayhaul queue pause", "rayhaul get --priority"]


async def test_fish_completes_it(tmp_path: Path) -> None:
    """The same of what fish says that could be typed next, with what it is good for."""
    script = """
        rayhaul --install-completion > ~/said
        for typed in "rayhaul storage" "rayhaul queue pa" "rayhaul get --prio"
            complete -C $typed
        end
    """
    told = await said_by("fish", home=tmp_path, script=script)
    assert [line.partition("\t")[0] for line in told] == ["storage-check", "pause", "--priority"]
