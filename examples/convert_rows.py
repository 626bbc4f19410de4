"""Rows with messages, conversations, or problem and solution, from standard input, as rows of visurf with targets of text."""

import json
import re
import sys

for number, line in enumerate(sys.stdin):
    old = json.loads(line)
    if turns := old.get("messages") or old.get("conversations"):
        said = [t.get("content", t.get("value")) for t in turns if t.get("role", t.get("from")) != "system"]
        said = [s if isinstance(s, str) else " ".join(part.get("text", "") for part in s) for s in said]
        if len(said) != 2:
            sys.exit(f"line {number + 1}: expected one question and one answer, got {len(said)} turns")
    else:
        said = [old["problem"], str(old.get("solution", old.get("answer")))]
    answer = re.search(r"<answer>(.*?)</answer>", said[1], re.DOTALL)
    target = {"text": (answer[1] if answer else said[1]).strip()}
    row = {"id": number, "question": said[0].replace("<image>", "").strip(), "target": target}
    print(json.dumps(row | {"image": old.get("images") or old["image"]}))
