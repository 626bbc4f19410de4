"""The command line of `visurf serve`: what fits a recipe, and what is refused."""

import json

import pytest

from visurf.cli import main
from visurf.config import ConfigError, load_config
from visurf.mini.demo import RECIPE
from visurf.serving import is_loopback, server_command


def config(**changes):
    return load_config(RECIPE, changes)


def value(command, flag):
    return command.arguments[command.arguments.index(flag) + 1]


def test_a_server_on_loopback_has_the_development_endpoints():
    command = server_command(config(), "m")
    assert value(command, "--host") == "127.0.0.1"
    assert command.variables["VLLM_SERVER_DEV_MODE"] == "1"
    assert "VLLM_API_KEY" not in command.variables
    assert "--enable-lora" not in command.arguments


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.5", "::", "node7", ""])
def test_another_host_needs_a_token_and_never_has_development_endpoints(host):
    lora = config(model={"lora": {"rank": 4}})
    with pytest.raises(ConfigError, match="token"):
        server_command(lora, "m", host=host)
    with pytest.raises(ConfigError, match="development endpoints"):
        server_command(config(), "m", host=host, token="secret")
    command = server_command(lora, "m", host=host, token="secret")
    # Said expressly: the variable may be set where the command is started.
    assert command.variables["VLLM_SERVER_DEV_MODE"] == "0"
    assert "secret" not in " ".join(command.arguments)
    assert command.variables["VLLM_API_KEY"] == "secret"


def test_what_counts_as_loopback():
    assert all(map(is_loopback, ["127.0.0.1", "127.8.0.1", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "192.168.0.1", "localhost.example.org", "::"]))


def test_flags_follow_the_recipe():
    command = server_command(config(model={"lora": {"rank": 24}, "min_pixels": 512, "max_pixels": 1024}), "m", images=2)
    assert value(command, "--max-lora-rank") == "32"
    assert json.loads(value(command, "--mm-processor-kwargs")) == {"min_pixels": 512, "max_pixels": 1024}
    assert json.loads(value(command, "--limit-mm-per-prompt")) == {"image": 2}
    nccl = server_command(config(rollout={"engine": "vllm", "servers": {"push": "nccl"}}), "m")
    assert json.loads(value(nccl, "--weight-transfer-config")) == {"backend": "nccl"}


def test_the_command_is_printed_without_the_token(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("VISURF_SERVER_TOKEN", "secret")
    assert main(["serve", str(RECIPE), f"out={tmp_path}", "--print", "--python", "py", "--flag=--max-model-len=512"]) == 0
    said = capsys.readouterr().out
    assert "py -m vllm.entrypoints.openai.api_server" in said
    assert said.strip().endswith("--max-model-len=512")
    assert "secret" not in said
    assert (tmp_path / "served" / "config.json").is_file()
