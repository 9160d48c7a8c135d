"""What each part of the 2020 recipe brings: the same steps without it, scored on the same fold.

    python benchmarks/ablation.py DATA [BUCKET]

Fewer steps than a whole training, so the scores are lower than in docs/results.md; what counts is
the difference to the first line. Some 4 minutes a line on two idle cores.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from common import print_caption, print_table, scratch

STEPS = int(os.environ.get("STEPS", "200"))
MODEL = os.environ.get("MODEL", "minilm")
RECIPE = ["experiment=tweet_sentiment_2020", f"model={MODEL}", f"trainer.max_steps={STEPS}"]
WITHOUT = {
    "the recipe": [],
    "blanks not repaired": ["task.repair_blanks=false"],
    "the last layer only, under the usual head": ["model.head_layers=null"],
    "one learning rate": ["trainer.head_learning_rate=null"],
    "labels not smoothed": ["trainer.label_smoothing=0"],
    "weights not averaged": ["trainer.average_from=null"],
    "trained on neutral tweets, too": ["task.neutral_whole_text=false"],
}


def main(data: str, bucket: str | None = None) -> None:
    with scratch() as folder:
        place = bucket or str(folder / "bucket")
        rows = [[name, *trained(place, data, more)] for name, more in WITHOUT.items()]
    print_table("Ablation", ["", "jaccard", "negative", "neutral", "positive"], rows)
    print_caption(f"Fold 0, {MODEL}, {STEPS} steps of 32 tweets each.")


def trained(bucket: str, data: str, more: list[str]) -> list[str]:
    command = [sys.executable, "-m", "kaggleops", "run", "--json", "--bucket", bucket]
    folder = f"data.dir={Path(data).resolve()}"
    done = subprocess.run([*command, *RECIPE, folder, *more], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    metrics = json.loads(done.stdout)["metrics"]
    names = ("jaccard", "jaccard_negative", "jaccard_neutral", "jaccard_positive")
    return [f"{metrics[name]:.4f}" for name in names]


if __name__ == "__main__":
    main(*sys.argv[1:])
