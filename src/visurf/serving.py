"""The command line and environment of a vLLM server that fits a recipe; no vLLM and no torch is imported.

A server that training pushes weights to has vLLM's development endpoints open: whoever reaches them can load other weights. They
are bound to loopback and nowhere else, and only a token opens a server to another host.
"""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from visurf.config import Config, ConfigError

# Adapter ranks that vLLM has kernels for.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class Command:
    """What to start: arguments, and variables beside those of the environment. The token stands in the variables alone."""

    arguments: tuple[str, ...]
    variables: Mapping[str, str]


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a host; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def server_command(
    config: Config,
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    python: str = sys.executable,
    images: int = 1,
    cpu: bool = False,
) -> Command:
    """The server for a recipe.

    Args:
        config: The run that it samples for.
        model: Folder or hub name of the checkpoint, as vLLM finds it.
        host: Where to listen.
        port: On which port.
        token: That every request must bring; needed on another host than loopback.
        python: Interpreter of an environment with vLLM.
        images: Most images of a prompt.
        cpu: Start vLLM's CPU build: float32, no compilation, small blocks so that short prompts share theirs too.

    Raises:
        ConfigError: Another host than loopback without a token, or with a way of weights that needs development endpoints.
    """
    local, lora = is_loopback(host), config.model.lora
    push = config.rollout.servers.push
    push = push if push != "auto" else ("adapter" if lora.rank else "file")
    if not local and not token:
        raise ConfigError(
            f"--host {host}: everybody who reaches it could use the server; set the environment variable "
            f"{config.rollout.servers.token_variable} to a token, or leave --host out and reach the server through ssh -L"
        )
    if not local and push != "adapter":
        raise ConfigError(
            f"--host {host}: rollout.servers.push={push} needs vLLM's development endpoints, which no token guards and which "
            "open on loopback only; leave --host out and reach the server through ssh -L, or train adapters"
        )
    arguments = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--host", host, "--port", str(port)]
    # What the checkpoint's generation_config says must not change the distribution, and log-probs are those of what is sampled.
    arguments += ["--generation-config", "vllm", "--logprobs-mode", "processed_logprobs", "--enable-scale-out"]
    arguments += ["--limit-mm-per-prompt", json.dumps({"image": images}), "--seed", str(config.seed)]
    pixels = {"min_pixels": config.model.min_pixels, "max_pixels": config.model.max_pixels}
    given = {name: value for name, value in pixels.items() if value is not None}
    if given:
        arguments += ["--mm-processor-kwargs", json.dumps(given)]
    if cpu:
        # A prompt cut in pieces ends this build's engine where requests bring seeds ("CPU Generator does not use offset").
        arguments += ["--dtype", "float32", "--enforce-eager", "--block-size", "32", "--no-enable-chunked-prefill"]
    else:
        # Weights trained in float32 under autocast, and adapters over them, are sampled as bfloat16.
        arguments += ["--dtype", "float32" if config.model.autocast == "off" and config.model.dtype != "bfloat16" else "bfloat16"]
    variables = {"VLLM_NO_USAGE_STATS": "1", "VLLM_SERVER_DEV_MODE": "0", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0"}
    if local:
        variables["VLLM_SERVER_DEV_MODE"] = "1"
    if push == "adapter":
        rank = next((r for r in RANKS if r >= lora.rank), None)
        if rank is None:
            raise ConfigError(
                f"model.lora.rank: vLLM serves ranks up to {RANKS[-1]}, got {lora.rank}; set rollout.servers.push=file"
            )
        arguments += ["--enable-lora", "--max-lora-rank", str(rank)]
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if push == "nccl":
        arguments += ["--weight-transfer-config", json.dumps({"backend": "nccl"})]
    if token:
        variables["VLLM_API_KEY"] = token
    if cpu:
        variables["VLLM_CPU_KVCACHE_SPACE"] = "1"
    return Command(tuple(arguments), variables)
