"""A small server with the endpoints of vLLM that rollouts need; it samples from a model in process, with weights it is given."""

import base64
import dataclasses
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from PIL import Image
from safetensors.torch import load_file

from visurf.models import load_model
from visurf.policy import Policy
from visurf.rollout.local import Sampling, sample, stream
from visurf.types import ImageRef, Objects, Sample


class FakeServer:
    """Answers on a free port of 127.0.0.1.

    Attributes:
        calls: (path, body) of all requests but health checks, in order.
        dies_after: Answer so many completions, then drop every connection until `revive`.
        shift: Added to every log-prob it reports.
        token: That it wants, if any.
    """

    def __init__(self, port=0):
        self.calls, self.lock = [], threading.Lock()
        self.dead, self.dies_after, self.shift, self.token = False, None, 0.0, ""
        self.port = port
        self.revive()

    def revive(self):
        """Start anew, as after a crash: with the first weights, no adapters, and no version that anyone noted."""
        self.model = load_model("mini")
        self.version, self.loaded, self.dead, self.dies_after = "default", {}, False, None

    def start(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self._do(None)

            def do_POST(self):
                length = int(self.headers.get("Content-Length") or 0)
                self._do(json.loads(self.rfile.read(length)) if length else None)

            def _do(self, body):
                if outer.dead:
                    self.close_connection = True
                    return
                guarded = outer.token and self.path.startswith(("/v1", "/inference"))
                if guarded and self.headers.get("Authorization") != f"Bearer {outer.token}":
                    return self._send(401, {"error": "Unauthorized"})
                with outer.lock:
                    if self.path != "/health":
                        outer.calls.append((self.path, body))
                    status, answer = outer.answer(self.path, body)
                if status is None:
                    self.close_connection = True
                    return None
                return self._send(status, answer)

            def _send(self, status, answer):
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.http.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def stop(self):
        self.http.shutdown()
        self.http.server_close()

    def paths(self, *, but=()):
        return [path for path, _ in self.calls if path not in but]

    def answer(self, path, body):
        if path == "/weight_info":
            return 200, {"weight_version": self.version}
        if path == "/update_weight_version":
            self.version = body["new_version"]
        elif path == "/v1/models":
            return 200, {"data": [{"id": "mini"}, *({"id": name} for name in self.loaded)]}
        elif path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            tensors = load_file(f"{body['kwargs']['weights_path']}/model.safetensors")
            own = self.model.network.state_dict()
            # Checkpoints are written under the names of the hub's files.
            named = {k.replace("visual.", "model.visual.", 1) if k.startswith("visual.") else k: v for k, v in tensors.items()}
            named = {k.replace("model.", "model.language_model.", 1) if k not in own else k: v for k, v in named.items()}
            assert not set(named) - set(own), sorted(set(named) - set(own))[:3]
            self.model.network.load_state_dict(named, strict=False)
        elif path == "/v1/load_lora_adapter":
            self.loaded[body["lora_name"]] = load_file(f"{body['lora_path']}/adapter_model.safetensors")
        elif path == "/v1/unload_lora_adapter":
            del self.loaded[body["lora_name"]]
        elif path == "/inference/v1/generate":
            return self.generate(body)
        elif not path.startswith("/reset_") and path != "/health":
            return 404, {"error": path}
        return 200, {"success": True}

    def generate(self, body):
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                self.dead = True
                return None, None
        if body.get("model") not in (None, *self.loaded):
            return 404, {"error": f"no model {body['model']}"}
        asked, model = body["sampling_params"], self.model
        images = [
            ImageRef(Image.open(io.BytesIO(base64.b64decode(part["url"].partition(",")[2]))))
            for part in body.get("content_parts", ())
        ]
        assert body["token_ids"].count(model.image_id) == len(images)
        prompt = model.encode_prompt(Sample("asked", tuple(images), "", Objects()), "")
        # The text is what was sent; the picture's tokens are what this side makes of it.
        count = prompt.token_ids.count(model.image_id)
        ids = [i for t in body["token_ids"] for i in ([t] * count if t == model.image_id else [t])]
        tensors = torch.tensor([ids])
        positions = model.family.positions(model.network, tensors, prompt.tensors)
        prompt = dataclasses.replace(prompt, token_ids=tuple(ids), position_ids=positions, next_position=int(positions.max()) + 1)
        banned = tuple(int(t) for t, bias in asked["logit_bias"].items() if bias <= -100)
        policy = Policy(model.network, temperature=asked["temperature"] or 1.0, banned=banned).eval()
        sampling = Sampling(asked["max_tokens"], greedy=not asked["temperature"], top_p=asked["top_p"])
        streams = [[stream(asked["seed"] + j) for j in range(asked["n"])]]
        (drawn,) = sample(policy, model.family, [prompt], asked["n"], sampling, tuple(asked["stop_token_ids"]), streams)
        choices = [
            {
                "index": j,
                "token_ids": list(r.token_ids),
                "finish_reason": "length" if r.truncated else "stop",
                "logprobs": {
                    "content": [{"token_id": t, "logprob": p + self.shift} for t, p in zip(r.token_ids, r.logprobs, strict=True)]
                },
                "weight_versions": [{"start": 0, "end": len(r.token_ids), "version": self.version}],
            }
            for j, r in enumerate(drawn)
        ]
        return 200, {"choices": choices[::-1], "prompt_token_ids": ids}
