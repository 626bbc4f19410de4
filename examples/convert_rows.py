"""Rows with messages, conversations, instruction and output, or problem and solution, from standard input, as rows of visurf."""

import json
import re
import sys

text = sys.stdin.read().strip()
rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.split("\n") if line.strip()]
for number, old in enumerate(rows):
    if turns := old.get("messages") or old.get("conversations") or old.get("conversation"):
        said = [t.get("content", t.get("value")) for t in turns if t.get("role", t.get("from")) != "system"]
        said = [s if isinstance(s, str) else " ".join(part.get("text", "") for part in s) for s in said]
        if len(said) != 2:
            sys.exit(f"row {number + 1}: expected one question and one answer, got {len(said)} turns")
    elif "instruction" in old:
        said = [f"{old['instruction']}\n{old.get('input') or ''}", str(old["output"])]
    else:
        said = [old["problem"], str(old.get("solution", old.get("answer")))]
    answer = re.search(r"<answer>(.*?)</answer>", said[1], re.DOTALL)
    target = {"text": (answer[1] if answer else said[1]).strip()}
    row = {"id": number, "question": said[0].replace("<image>", "").strip(), "target": target}
    if picture := old.get("images") or old.get("image"):
        row["image"] = picture
    print(json.dumps(row))
