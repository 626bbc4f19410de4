"""One vLLM server over HTTP: prompts as token ids and pictures, completions as token ids and log-probs.

Endpoints, all of vLLM's own server: `/inference/v1/generate` (tokens in, tokens out), `/v1/load_lora_adapter`, and the development
endpoints `/collective_rpc`, `/reset_*_cache`, `/weight_info` and `/update_weight_version`.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from visurf.models.family import Prompt
from visurf.rollout.types import Rollout, Sampling

# vLLM bounds biases to this; e^-100 is zero beside any token that can be sampled.
_NEVER = -100.0


class ServerLost(ConnectionError):
    """A server did not answer, failed, or answers with other weights than asked for; the request may be asked again."""


class ServerMismatch(ValueError):
    """A server serves another model, or understands a prompt otherwise; asking again would not help."""


@dataclass(frozen=True)
class Drawing:
    """What the rollouts of one prompt are drawn from.

    Attributes:
        sampling: Length, greedy or sampled, top-p.
        temperature: Divides the logits.
        eos: Tokens that end a completion.
        banned: Tokens that are never sampled.
        placeholder: Token that stands for a feature of an image.
    """

    sampling: Sampling
    temperature: float
    eos: tuple[int, ...]
    banned: tuple[int, ...]
    placeholder: int


@dataclass(frozen=True)
class Weights:
    """Which weights are wanted: the version a server must name, and the adapter it must answer with, if any."""

    version: str
    adapter: str = ""


@dataclass
class Server:
    """A vLLM server.

    Attributes:
        address: Such as ``http://127.0.0.1:8000``.
        token: For its `--api-key`; empty for none.
        timeout: Seconds a request may take.
    """

    address: str
    token: str = ""
    timeout: float = 600.0
    _client: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Open the client.

        Raises:
            ImportError: httpx is not installed.
        """
        try:
            import httpx
        except ImportError as error:
            raise ImportError("rollout servers need httpx: pip install -e '.[vllm]' in a clone of visurf", name="httpx") from error
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        limits = httpx.Limits(max_connections=None)
        # Proxies of the environment are for the world outside, not for a server of this run.
        self._client = httpx.Client(
            base_url=self.address, headers=headers, timeout=httpx.Timeout(self.timeout, connect=10), limits=limits, trust_env=False
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Ask once: the answer's JSON, or None where it has none.

        Raises:
            ServerLost: No answer, or an error of the server.
            ServerMismatch: The server refuses the request.
        """
        import httpx

        try:
            answer = self._client.request(method, path, json=body, **options)
        except (httpx.HTTPError, OSError) as error:
            raise ServerLost(f"{self.address}{path}: {type(error).__name__}: {error}") from error
        if answer.status_code >= 500 or answer.status_code in (408, 429):
            raise ServerLost(f"{self.address}{path}: status {answer.status_code}: {answer.text[:300]}")
        if answer.status_code >= 400:
            raise ServerMismatch(
                f"{self.address}{path}: status {answer.status_code}: {answer.text[:500]}{_hint(answer.status_code, path)}"
            )
        try:
            return json.loads(answer.content) if answer.content else None
        except ValueError:
            return None

    def healthy(self) -> bool:
        """Whether the server answers and its engine lives."""
        try:
            self.ask("GET", "/health", timeout=10.0)
        except (ServerLost, ServerMismatch):
            return False
        return True

    def version(self) -> str:
        """The version of weights that was last noted on the server; a server that was started anew does not know ours."""
        answer = self.ask("GET", "/weight_info", timeout=30.0)
        return str((answer or {}).get("weight_version"))

    def note_version(self, version: str) -> None:
        """Note the version of the weights that were just pushed."""
        self.ask("POST", "/update_weight_version", {"new_version": version})

    def adapters(self) -> list[str]:
        """Names of what can be asked: the model, and adapters that are loaded."""
        answer = self.ask("GET", "/v1/models", timeout=30.0)
        return [str(model["id"]) for model in answer["data"]]

    def reset_caches(self) -> None:
        """Forget what was computed with other weights, and with it the pictures: engine and front end must forget together.

        Raises:
            ServerLost: The prefix cache is in use by a request that should have ended.
        """
        self.ask("POST", "/reset_mm_cache")
        self.ask("POST", "/reset_encoder_cache")
        answer = self.ask("POST", "/reset_prefix_cache")
        if answer is not None and answer.get("success") is False:
            raise ServerLost(f"{self.address}: the prefix cache could not be reset; another program uses this server")

    def generate(self, prompt: Prompt, members: int, drawing: Drawing, seed: int, weights: Weights) -> list[Rollout]:
        """All rollouts of a prompt, asked for in one request so that prompt and image are encoded once.

        Args:
            prompt: Its images are sent as they are, its text as token ids.
            members: Rollouts.
            drawing: How to draw.
            seed: Rollout j draws with seed + j.
            weights: Which weights must answer.

        Raises:
            ServerLost: See `ask`; or other weights answered.
            ServerMismatch: See `ask`; or the server understands the prompt as other tokens.
        """
        body: dict[str, Any] = {
            "token_ids": _unexpanded(prompt.token_ids, drawing.placeholder),
            "sampling_params": _parameters(members, drawing, seed),
            "return_token_ids": True,
        }
        if weights.adapter:
            body["model"] = weights.adapter
        if prompt.sample.images:
            body["content_parts"] = [{"type": "image_url", "url": data_url(i.load())} for i in prompt.sample.images]
        answer = self.ask("POST", "/inference/v1/generate", body)
        check_prompt(prompt, answer.get("prompt_token_ids"), self.address)
        choices = sorted(answer["choices"], key=lambda c: c["index"])
        if len(choices) != members:
            raise ServerLost(f"{self.address}: asked for {members} completions, got {len(choices)}")
        for choice in choices:
            spans = choice.get("weight_versions") or ()
            others = {str(span["version"]) for span in spans} - {weights.version}
            if others and not weights.adapter:
                raise ServerLost(f"{self.address}: weights {sorted(others)} answered, {weights.version!r} were asked")
        return [_rollout(choice, drawing, self.address) for choice in choices]


def data_url(image: Any) -> str:
    """A picture as a lossless data URL."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def check_prompt(prompt: Prompt, found: Sequence[int] | None, address: str) -> None:
    """Refuse a server that makes other tokens of a prompt than training does.

    Raises:
        ServerMismatch: Says where they part.
    """
    if found is None:
        raise ServerMismatch(f"{address} returns no prompt tokens; visurf needs vLLM 0.32 or newer")
    expected, came = list(prompt.token_ids), list(found)
    if came == expected:
        return
    place = next((i for i, (a, b) in enumerate(zip(expected, came, strict=False)) if a != b), min(len(expected), len(came)))
    raise ServerMismatch(
        f"{address} reads sample {prompt.sample.id} as {len(came)} tokens, training as {len(expected)}; from token {place}: "
        f"expected {expected[place : place + 5]}, got {came[place : place + 5]}. Start the server with `visurf serve` and "
        "this run's recipe: model and pixel limits must be the same (docs/servers.md)"
    )


def _unexpanded(token_ids: Sequence[int], placeholder: int) -> list[int]:
    """Token ids with one placeholder an image, as the chat template writes them; the server puts in the others."""
    found: list[int] = []
    for token, run in groupby(token_ids):
        found += [token] if token == placeholder else run
    return found


def _parameters(members: int, drawing: Drawing, seed: int) -> dict[str, Any]:
    """The sampling parameters of vLLM; all that a checkpoint's generation_config could set is set here."""
    sampling = drawing.sampling
    return {
        "n": members,
        "temperature": 0.0 if sampling.greedy else drawing.temperature,
        "top_p": 1.0 if sampling.greedy else sampling.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": sampling.max_tokens,
        "seed": seed,
        "stop_token_ids": list(drawing.eos),
        # The tokens that end a completion are those above and no others.
        "ignore_eos": True,
        "logit_bias": {str(token): _NEVER for token in drawing.banned},
        "logprobs": 0,
        "detokenize": False,
    }


def _rollout(choice: Mapping[str, Any], drawing: Drawing, address: str) -> Rollout:
    tokens = tuple(int(t) for t in choice["token_ids"] or ())
    content = (choice.get("logprobs") or {}).get("content") or ()
    logprobs = tuple(float(entry["logprob"]) for entry in content)
    ended = bool(tokens) and tokens[-1] in drawing.eos
    if len(logprobs) != len(tokens) or not tokens or choice.get("finish_reason") not in ("stop", "length"):
        raise ServerLost(
            f"{address}: a completion of {len(tokens)} tokens with {len(logprobs)} log-probs end: {choice.get('finish_reason')!r}"
        )
    wrong = [t for t in tokens if t in drawing.banned]
    if wrong:
        raise ServerMismatch(f"{address}: sampled token {wrong[0]}, which is banned; is this a vLLM that knows logit_bias?")
    return Rollout(tokens, logprobs, truncated=not ended)


def _hint(status: int, path: str) -> str:
    if status == 401:
        return "; the server wants a token: put it into the environment variable that rollout.servers.token_variable names"
    if status == 404 and path.startswith("/v1"):
        return "; start the server with `visurf serve` for adapters to be loaded"
    if status == 404:
        return "; start the server with `visurf serve`, which opens the development endpoints on loopback"
    return ""
