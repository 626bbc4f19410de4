"""visurf export: what it writes loads in plain transformers and peft, and its card says what the run says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer

from visurf.cli import main
from visurf.config import load_config
from visurf.data import load_data
from visurf.mini.demo import RECIPE
from visurf.model_card import write_card
from visurf.models import load_model, save_model
from visurf.policy import Policy
from visurf.publishing import export_run, push
from visurf.rollout.local import sample
from visurf.rollout.types import Sampling
from visurf.tasks import TASKS
from visurf.training import train
from visurf.types import ImageRef, Objects, Sample


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny run"
    small = {
        "data": {"train": "world:shifted?count=8&seed=1", "validation": "world:shifted?count=4&seed=2"},
        "rollout": {"group_size": 2, "max_tokens": 8},
        "model": {"lora": {"rank": 2}},
        "evaluation": {"every": 1, "limit": 4},
        "optimizer": {"lr": 0.01, "warmup_steps": 0},
    }
    train(load_config(RECIPE, {**small, "out": str(out), "steps": 1, "prompts_per_step": 2, "threads": 1, "paradigm": "sft"}))
    return out


def test_the_export_loads_in_plain_transformers(run, capsys):
    assert main(["export", str(run)]) == 0
    folder = run / "export"
    assert str(folder) in capsys.readouterr().out
    found = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(found).__module__.startswith("transformers.")
    trained = AutoModelForImageTextToText.from_pretrained(run / "model")
    for (name, mine), theirs in zip(found.named_parameters(), trained.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert load_config(folder / "config.yaml").paradigm == "sft"
    assert not any("peft" in name for name in os.listdir(folder))


def test_the_adapter_alone_gives_the_merged_model(run, tmp_path):
    from peft import PeftModel

    folder = export_run(run, tmp_path / "adapter", adapter=True)
    base = AutoModelForImageTextToText.from_pretrained(_mini(), dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, folder).merge_and_unload()
    whole = AutoModelForImageTextToText.from_pretrained(run / "model", dtype=torch.float32)
    moved = 0
    plain = AutoModelForImageTextToText.from_pretrained(_mini(), dtype=torch.float32)
    for (name, mine), theirs, before in zip(merged.named_parameters(), whole.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6), name
        moved += not torch.equal(theirs, before)
    assert moved > 0


@pytest.mark.parametrize("rank", [0, 2])
def test_a_step_of_a_run_is_exported_as_it_was(tmp_path, capsys, rank):
    """Stages of two steps each: the model of step 2 is what a run of that one stage ends with."""
    small = {
        "data": {"train": "world:shifted?count=8&seed=1", "validation": "world:shifted?count=4&seed=2"},
        "model": {"lora": {"rank": rank}},
        "rollout": {"group_size": 2, "max_tokens": 8},
        "evaluation": {"every": 1},
        "optimizer": {"lr": 0.01, "warmup_steps": 0, "schedule": "constant"},
        "checkpoint": {"every": 1, "keep": 9},
        **{"steps": 2, "prompts_per_step": 2, "threads": 1, "paradigm": "sft"},
    }
    train(load_config(RECIPE, {**small, "out": str(tmp_path / "one")}))
    train(load_config(RECIPE, {**small, "out": str(tmp_path / "two"), "steps": 4, "paradigm": "sft_then_rlvr"}))
    run = tmp_path / "two"
    (run / "summary.json").unlink()  # as if it had not ended
    assert main(["export", str(run), "--step", "2"]) == 0
    out = run / "export-step-000002"
    expected = AutoModelForImageTextToText.from_pretrained(tmp_path / "one" / "model", dtype=torch.float32)
    found = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32)
    for (name, mine), theirs in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    assert AutoTokenizer.from_pretrained(out).chat_template
    card, rows = (out / "README.md").read_text(), [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert "| steps done | 2 |" in card
    assert f"| box_iou | {rows[1]['validation/box_iou']:.4f} |" in card
    best = max(rows, key=lambda row: row["validation/giou"])["step"]
    assert export_run(run, step="best").name == f"export-step-{best:06d}"
    if rank:
        assert (export_run(run, tmp_path / "adapter", adapter=True, step=2) / "adapter_model.safetensors").is_file()
    else:
        with pytest.raises(ValueError, match="there are no adapters"):
            export_run(run, tmp_path / "adapter", adapter=True, step=2)
    with pytest.raises(ValueError, match=r"no checkpoint of step 7; there are: 1, 2, 3, 4 "):
        export_run(run, step=7)
    with pytest.raises(ValueError, match="expected a number or best, got 'last'"):
        export_run(run, step="last")
    with pytest.raises(ValueError, match="or a --step"):
        export_run(run)
    (tmp_path / "none.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"expected records\.jsonl"):
        export_run(run, tmp_path / "other", step=2, records=[tmp_path / "none.jsonl"])
    assert not (tmp_path / ".partial-other").exists(), "a model was written before its card could be"
    weights = run / "checkpoints" / "step-000001" / "model" / ("adapter_model.safetensors" if rank else "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-9] + b"damaged!!")
    with pytest.raises(ValueError, match=r"step-000001 is damaged: model/.*safetensors is not what was written"):
        export_run(run, step=1)


def _mini():
    from visurf.models.loading import resolve

    return resolve("mini")


def test_the_card_says_what_the_run_says(run, tmp_path):
    card = (export_run(run, tmp_path / "out") / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["tags"] == ["visurf", "sft", "referring"]
    assert "base_model" not in head  # "mini" is no repository
    assert "| training data | world:shifted?count=8&seed=1 |" in card
    assert "| stages | sft: 1 steps |" in card
    assert "world:shifted?count=4&seed=2, 4 samples:" in card
    records = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    giou = sum(r["measures"]["giou"] for r in records) / 4
    value, low, high = map(float, re.search(r"\| giou \| ([\d.]+) \[([\d.]+), ([\d.]+)\] \|", card).groups())
    assert value == pytest.approx(giou, abs=1e-4)
    assert low <= value <= high
    started = json.loads((run / "invocations.jsonl").read_text().splitlines()[0])
    assert f"    {started['command'].split()[0]}" in card
    assert re.search(r"torch \d", card)
    assert "find the" in card or "{question}" in card


def test_the_default_paradigm_is_tagged_once(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump({**config, "paradigm": "visurf"}))
    assert yaml.safe_load(write_card(copy, adapter=False).split("---")[1])["tags"] == ["visurf", "referring"]


@pytest.mark.parametrize("prompt", ["", "bare", "Where is {question}?\nThink first. "])
def test_the_export_holds_the_prompt(run, tmp_path, prompt):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump({**config, "task": {"name": "referring", "prompt": prompt}}))
    template = (export_run(copy) / "prompt.txt").read_text(encoding="utf-8")
    asked = Sample("a", (), "the dog", Objects())
    assert template.replace("{question}", "the dog") == TASKS["referring"].prompt(asked, prompt)


def test_the_card_takes_command_and_versions_from_the_run(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    first = {"command": "visurf train x.yaml <script>", "versions": {"torch": "9.9"}}
    rows = [first, {"command": "visurf train y.yaml", "versions": {"torch": "9.8"}}]
    (copy / "invocations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = (export_run(copy) / "README.md").read_text()
    assert "    visurf train x.yaml  script \n    visurf train y.yaml\n" in card
    assert "Versions: torch 9.8." in card
    assert "<" not in card


def test_records_of_an_evaluation_stand_in_the_card(run, tmp_path, capsys):
    shutil.copy(run / "validation.jsonl", tmp_path / "records.jsonl")
    card = (export_run(run, tmp_path / "out", records=[tmp_path / "records.jsonl"]) / "README.md").read_text()
    assert card.count("4 samples:") == 2
    (tmp_path / "records.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match="expected records"):
        export_run(run, tmp_path / "out", records=[tmp_path / "records.jsonl"])
    for missing in (tmp_path / "gone.jsonl", tmp_path):
        assert main(["export", str(run), "--out", str(tmp_path / "new"), "--records", str(missing)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"visurf: {missing}: ")
        assert "which `visurf eval` writes into its --out folder" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085"])
def test_a_text_with_another_line_break_than_the_line_feed_ends_no_record(run, tmp_path, mark):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    rows = [json.loads(line) | {"text": f"a{mark}b"} for line in (run / "validation.jsonl").read_text().splitlines()]
    (copy / "validation.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    starts = [json.loads(line) for line in (run / "invocations.jsonl").read_text().splitlines()]
    starts[0]["command"] = f"visurf train a{mark}b.yaml"
    (copy / "invocations.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in starts), encoding="utf-8")
    assert "4 samples:" in write_card(copy, adapter=False)


@pytest.mark.parametrize("missing", ["summary.json", "model"])
def test_a_run_that_has_not_ended_is_refused(run, tmp_path, missing, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / missing) if (copy / missing).is_dir() else (copy / missing).unlink()
    assert main(["export", str(copy)]) == 2
    assert str(copy) in capsys.readouterr().err


def test_nothing_else_is_overwritten(run, tmp_path):
    (tmp_path / "thesis").mkdir()
    with pytest.raises(ValueError, match="no earlier export"):
        export_run(run, tmp_path / "thesis")
    export_run(run, tmp_path / "out")
    assert export_run(run, tmp_path / "out") == tmp_path / "out"


class Hub:
    calls = ()

    def create_repo(self, name, **how):
        Hub.calls.append(("create", name, how))

    def upload_folder(self, **what):
        Hub.calls.append(("upload", what["repo_id"], what["folder_path"]))


def test_a_push_happens_only_when_asked_and_to_a_private_repository(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Hub, "calls", [])
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=Hub))
    out = tmp_path / "out"
    assert main(["export", str(run), "--out", str(out)]) == 0
    assert Hub.calls == []
    assert main(["export", str(run), "--out", str(out), "--push", "me/model"]) == 0
    assert Hub.calls == [("create", "me/model", {"private": True, "exist_ok": True}), ("upload", "me/model", str(out))]
    assert "https://huggingface.co/me/model" in capsys.readouterr().out
    with pytest.raises(ValueError, match="user/repository"):
        push(out, "model")


ANSWERING = """
import json, sys
from pathlib import Path

from PIL import Image
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    adapters = {"enable_lora": True, "max_lora_rank": 8} if asked["adapter"] else {}
    model = LLM(asked["model"], dtype="float32", max_model_len=512, enforce_eager=True, generation_config="vllm", **adapters)
    prompts = [
        {"prompt_token_ids": p["tokens"], "multi_modal_data": {"image": Image.open(p["image"])}} for p in asked["prompts"]
    ]
    adapter = LoRARequest("trained", 1, asked["adapter"]) if asked["adapter"] else None
    given = SamplingParams(temperature=0, max_tokens=16, logprobs=0)
    found = [o.outputs[0] for o in model.generate(prompts, given, lora_request=adapter)]
    answers = [{"tokens": list(o.token_ids), "logprobs": [p[t].logprob for p, t in zip(o.logprobs, o.token_ids)]} for o in found]
    Path(sys.argv[2]).write_text(json.dumps(answers))
"""


def _unexpanded(prompt, placeholder):
    """The prompt's tokens with one placeholder for its picture, as vLLM wants them."""
    ids = list(prompt.token_ids)
    return [t for i, t in enumerate(ids) if t != placeholder or i == 0 or ids[i - 1] != placeholder]


def _greedy(model, prompts):
    policy = Policy(model.network, temperature=1.0, banned=()).eval()
    return [group[0] for group in sample(policy, model.family, prompts, 1, Sampling(16, greedy=True), model.eos_ids)]


@pytest.mark.vllm
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("adapter", [False, True])
def test_an_export_answers_in_vllm_as_the_run_does(run, mini, tmp_path, adapter):
    """Merged, and as an adapter over its base: the tokens and log-probs of the trained model, which are not the base's."""
    python = os.environ.get("VISURF_VLLM_PYTHON")
    if not python:
        pytest.skip("VISURF_VLLM_PYTHON names no Python with vLLM")
    trained, task = load_model(str(run / "model")), TASKS["referring"]
    samples = load_data("world:shifted?count=4&seed=3", load_config(RECIPE).data, task).samples
    prompts = [trained.encode_prompt(s, task.prompt(s, "")) for s in samples]
    folder, base = export_run(run, tmp_path / "out", adapter=adapter), tmp_path / "base"
    save_model(mini, mini.network, base)
    for i, sampled in enumerate(samples):
        sampled.images[0].load().save(tmp_path / f"{i}.png")
    asked = {
        "model": str(base if adapter else folder),
        "adapter": str(folder) if adapter else "",
        "prompts": [
            {"tokens": _unexpanded(p, trained.image_id), "image": str(tmp_path / f"{i}.png")} for i, p in enumerate(prompts)
        ],
    }
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    (tmp_path / "answering.py").write_text(ANSWERING)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    command = [python, str(tmp_path / "answering.py"), str(tmp_path / "asked.json"), str(tmp_path / "answers.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads((tmp_path / "answers.json").read_text())
    expected = _greedy(trained, prompts)
    apart = []
    for answer, ours, before in zip(answers, expected, _greedy(mini, prompts), strict=True):
        assert tuple(answer["tokens"]) == ours.token_ids
        assert answer["logprobs"] == pytest.approx(ours.logprobs, abs=1e-3)
        apart += [abs(a - b) for a, b in zip(ours.logprobs, before.logprobs, strict=False)]
    assert max(apart) > 0.01, "training changed too little for this to show whose weights answer"


def test_the_example_of_the_page_gives_boxes_of_the_original_picture(run, tmp_path, monkeypatch, capsys):
    """docs/exporting.md, with a processor without its video part, which needs torchvision; that is not installed for the tests."""
    from transformers import AutoProcessor, Qwen2_5_VLProcessor

    class StillsOnly(Qwen2_5_VLProcessor):
        @classmethod
        def get_attributes(cls):
            return [name for name in super().get_attributes() if name != "video_processor"]

        def decode(self, written, **options):
            said.append(super().decode(written, **options))
            return '<answer>[{"bbox_2d": [14, 28, 56, 84], "point_2d": [20, 30]}]</answer>'

    said = []
    folder = export_run(run, tmp_path / "runs" / "train" / "export")
    loaded = load_model(folder)
    processor = StillsOnly(
        image_processor=loaded.image_processor, tokenizer=loaded.tokenizer, chat_template=loaded.tokenizer.chat_template
    )
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda folder: processor)
    monkeypatch.chdir(tmp_path)
    picture = Image.new("RGB", (200, 100), "white")
    picture.save(tmp_path / "dogs.jpg")
    page = (Path(__file__).parents[1] / "docs" / "exporting.md").read_text()
    names = {}
    exec(re.search(r'```python title="answer.py"\n(.*?)```', page, re.DOTALL)[1], names)
    sample = Sample("a", (ImageRef(picture),), names["QUESTION"], Objects())
    ours = loaded.encode_prompt(sample, TASKS["referring"].prompt(sample, load_config(run / "config.yaml").task.prompt))
    assert names["inputs"]["input_ids"][0].tolist() == list(ours.token_ids)
    assert len(said) == 1
    width, height = ours.frame.extent
    expected = [14 * 200 / width, 28 * 100 / height, 56 * 200 / width, 84 * 100 / height]
    assert json.loads(capsys.readouterr().out.partition(": ")[2]) == pytest.approx(expected)
