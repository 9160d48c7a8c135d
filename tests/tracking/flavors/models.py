"""A user's script, first `log`, then on another machine `read`: what trains and logs models."""

import gc
import os
import sys
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow import MlflowClient
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    Trainer,
    TrainingArguments,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "day"]
QUICK = {"pip_requirements": ["mlflow"]}  # MLflow would find them out by loading the model


def torch_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))


def transformer() -> BertForSequenceClassification:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(WORDS), num_attention_heads=2, num_labels=2, **sizes)
    return BertForSequenceClassification(config)


class Tweets(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        words = torch.tensor([2, 5 + index % 2, 3])
        return {"input_ids": words, "labels": torch.tensor(index % 2)}


def log() -> None:
    mlflow.set_experiment("flavors")
    log_trainer()
    log_torch()
    log_transformers()
    log_sklearn()
    evaluate()
    mlflow.genai.register_prompt(name="greeting", template="Hello {{name}}")


def log_trainer() -> None:
    os.environ["HF_MLFLOW_LOG_ARTIFACTS"] = "1"
    arguments = TrainingArguments(
        "output",
        run_name="trainer",
        report_to="mlflow",
        num_train_epochs=1,
        per_device_train_batch_size=4,
        logging_steps=1,
        save_strategy="epoch",
        eval_strategy="epoch",
        use_cpu=True,
    )
    Trainer(transformer(), arguments, train_dataset=Tweets(), eval_dataset=Tweets()).train()
    gc.collect()  # when its callback is collected, it ends whatever run is active then


def log_torch() -> None:
    with mlflow.start_run(run_name="torch"):
        logged = mlflow.pytorch.log_model(
            torch_model(),
            name="net",
            registered_model_name="net",
            serialization_format="pickle",
            **QUICK,
        )
    assert int(mlflow.register_model(logged.model_uri, "net").version) == 2
    client = MlflowClient()
    client.set_registered_model_alias("net", "champion", "1")
    client.set_model_version_tag("net", "2", "cv", "0.71")


def log_transformers() -> None:
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(WORDS)})
    with mlflow.start_run(run_name="transformers"):
        mlflow.transformers.log_model(
            {"model": transformer(), "tokenizer": tokenizer},
            name="bert",
            task="text-classification",
            registered_model_name="bert",
            **QUICK,
        )


def log_sklearn() -> None:
    mlflow.sklearn.autolog(log_models=False, max_tuning_runs=2)
    features = np.random.default_rng(0).normal(size=(40, 3))
    with mlflow.start_run(run_name="sklearn"):
        grid = GridSearchCV(LogisticRegression(), {"C": [0.5, 2.0]}, cv=2)
        grid.fit(features, (features[:, 0] > 0).astype(int))
    mlflow.sklearn.autolog(disable=True)


def evaluate() -> None:
    import pandas as pd

    with mlflow.start_run(run_name="evaluated"):
        mlflow.models.evaluate(
            data=pd.DataFrame({"label": [0, 1, 1, 0], "guess": [0, 1, 0, 0]}),
            targets="label",
            predictions="guess",
            model_type="classifier",
            evaluator_config={"log_explainer": False},
        )


def read() -> None:
    mlflow.set_experiment("flavors")
    read_trainer()
    client = MlflowClient()
    (run,) = found("torch")
    (output,) = run.outputs.model_outputs
    for uri in (
        "models:/net/1",
        "models:/net@champion",
        "models:/net/latest",
        f"models:/{output.model_id}",
        f"runs:/{run.info.run_id}/net",
    ):
        loaded = mlflow.pytorch.load_model(uri)
        assert torch.equal(loaded[0].weight, torch_model()[0].weight), uri
    versions = client.search_model_versions("name = 'net'", order_by=["version_number ASC"])
    assert [version.tags for version in versions] == [{}, {"cv": "0.71"}]
    assert int(client.get_model_version_by_alias("net", "champion").version) == 1
    assert [model.name for model in client.search_registered_models("name LIKE 'n%'")] == ["net"]

    (guess,) = mlflow.transformers.load_model("models:/bert/1")("good day")
    assert guess["label"] in ("LABEL_0", "LABEL_1")
    assert list(mlflow.pyfunc.load_model("models:/bert/1").predict(["bad day"])["label"])

    (grid,) = found("sklearn")
    assert {"best_C", "cv"} <= grid.data.params.keys()
    assert len(found_children(grid.info.run_id)) == 2
    listed = [each.path for each in client.list_artifacts(grid.info.run_id)]
    assert "training_confusion_matrix.png" in listed

    (evaluated,) = found("evaluated")
    assert evaluated.data.metrics["accuracy_score"] == 0.75
    names = {model.name for model in mlflow.search_logged_models(output_format="list")}
    assert {"net", "bert"} <= names
    assert mlflow.genai.load_prompt("prompts:/greeting/1").format(name="Ada") == "Hello Ada"


def read_trainer() -> None:
    (run,) = found("trainer")
    assert run.info.status == "FINISHED"
    assert run.data.params.get("per_device_train_batch_size") == "4", sorted(run.data.params)
    assert {"loss", "eval_loss", "train_loss"} <= run.data.metrics.keys()
    run_id = run.info.run_id
    assert [point.step for point in MlflowClient().get_metric_history(run_id, "loss")] == [1, 2]
    folder = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/checkpoint-2")
    checkpoint = Path(folder, "artifacts", "checkpoint-2")
    assert {"model.safetensors", "optimizer.pt"} <= {each.name for each in checkpoint.iterdir()}
    loaded = BertForSequenceClassification.from_pretrained(checkpoint)
    assert loaded.config.hidden_size == 16


def found(name: str) -> list[mlflow.entities.Run]:
    return mlflow.search_runs(filter_string=f"run_name = '{name}'", output_format="list")


def found_children(run_id: str) -> list[mlflow.entities.Run]:
    parent = f"tags.mlflow.parentRunId = '{run_id}'"
    return mlflow.search_runs(filter_string=parent, output_format="list")


if __name__ == "__main__":
    {"log": log, "read": read}[sys.argv[1]]()
