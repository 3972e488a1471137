# %% [markdown]
# # Will it train? What one batch at initialisation tells about a training that has not begun
#
# Makes the short trainings on which `deepprobe.diagnosis.will_it_train` is calibrated, predicts those that it was not
# calibrated on, and writes the numbers of `docs/results/will-it-train.md` and its figures.
#
#     python analyses/05_will_it_train.py --scale paper --out docs/results
#
# Trainings go to `will-it-train.csv` in that folder, one row each; a script that was stopped goes on behind the last.
#
# **Trains**, fixed before the first training was looked at: the mean accuracy on the training batches, each seen
# before its update, is at least 50 % over the fifth epoch (updates 81 to 100 of 64 images; chance is about 10 %).
# A loss that is not finite is a failure. SGD, momentum 0.9, constant learning rate, no weight decay, no clipping.

# %%
import argparse
from functools import cache
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

import deepprobe as dp
from deepprobe import reports
from deepprobe.diagnosis.prediction import FEATURES, calibrate, initial_features, trainable_depth, will_it_train
from deepprobe.diagnosis.prediction.calibration import TWO_SIDED
from deepprobe.errors import MissingDataError
from deepprobe.runs.atomic import write_bytes
from deepprobe.training import evaluate

parser = argparse.ArgumentParser(description="Trainings, numbers and figures of docs/results/will-it-train.md.")
parser.add_argument("--scale", choices=["smoke", "quick", "paper"], default="quick", help="24, 96 or 274 trainings")
parser.add_argument("--smoke", action="store_true", help="the same as --scale smoke")
parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the page, its table and figures")
parser.add_argument("--data-dir", type=Path, help="folder of MNIST; without MNIST its part is left out")
parser.add_argument("--train-only", action="store_true", help="make the trainings and stop")
arguments, _ = parser.parse_known_args()
scale = "smoke" if arguments.smoke else arguments.scale
torch.set_num_threads(1)

DEPTHS = {"smoke": [8, 14], "quick": [8, 20, 56], "paper": [8, 14, 20, 32, 56, 110]}[scale]
PER_CELL, EPOCHS, BATCH, UPDATES = {"smoke": 3, "quick": 8, "paper": 12}[scale], 5, 64, 1 if scale == "smoke" else 20
LEVELS = {
    "activation": ["relu", "gelu", "elu", "tanh", "sigmoid"],
    "init": ["he", "glorot", "orthogonal"],
    "init_gain": [0.5, 1.0, 2.0],
    "lr": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0],
}
SEEN = 12 if scale == "smoke" else 146
KEYS = ["data", "depth", "shortcut", "batch_norm", *LEVELS, "seed"]

# %% [markdown]
# The design: every cell of depth × shortcut × normalisation has as many configurations, and within a cell every level
# of the other four factors comes up as often as the others (a Latin hypercube over levels). Then more seeds of some.


# %%
def design(data: str, depths: list[int], per_cell: int, *, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for depth, shortcut, batch_norm in product(depths, ["none", "A"], [True, False]):
        columns = {
            name: [level for _ in range(per_cell) for level in rng.permutation(levels).tolist()][:per_cell]
            for name, levels in LEVELS.items()
        }
        for i in range(per_cell):
            cell = {"data": data, "depth": depth, "shortcut": shortcut, "batch_norm": batch_norm}
            rows.append(cell | {name: column[i] for name, column in columns.items()} | {"seed": 0})
    return pd.DataFrame(rows).drop_duplicates(KEYS).sample(frac=1.0, random_state=seed).reset_index(drop=True)


plan = [design("digits", DEPTHS, PER_CELL, seed=0)]
if scale == "paper":  # deep networks take most of the time: fewer of them
    place = plan[0].groupby(["depth", "shortcut", "batch_norm"]).cumcount()
    plan[0] = plan[0][place < plan[0]["depth"].map({32: 8, 56: 5, 110: 2}).fillna(PER_CELL)]
    plan += [design("mnist", [8, 14], 2, seed=1)]
    plan += [plan[0][plan[0]["depth"] <= 20].head(12).assign(seed=seed) for seed in (1, 2)]
    plan += [design("digits", [8, 14, 20, 32], 2, seed=2)]
plan = pd.concat(plan, ignore_index=True)


# %% [markdown]
# One training. The seed is that of the weights and of the order of the images.


# %%
@cache
def images(data: str, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    size, limit = (8, 360) if data == "digits" else (14, 1000)
    limit = BATCH * UPDATES if split == "train" else limit
    return dp.load_dataset(data, data_dir=arguments.data_dir, split=split, input_size=size, limit=limit).tensors()


def network(row: pd.Series) -> dp.models.ZooModel:
    return dp.create_model(
        "resnet", depth=int(row["depth"]), shortcut=row["shortcut"], batch_norm=bool(row["batch_norm"]),
        activation=row["activation"], init=row["init"], init_gain=float(row["init_gain"]), base_width=8,
        in_channels=1, input_size=8 if row["data"] == "digits" else 14, seed=int(row["seed"]),
    )  # fmt: skip


def trained(row: pd.Series) -> dict[str, object]:
    model = network(row)
    config = dp.TrainConfig(
        epochs=EPOCHS, batch_size=BATCH, lr=float(row["lr"]), momentum=0.9, weight_decay=0.0, schedule="constant",
        validation_share=0.0, seed=int(row["seed"]), device="cpu",
    )  # fmt: skip
    run = dp.train(model, images(row["data"], "train"), config=config, quiet=True)
    found = run.metrics().query("split == 'train'").set_index(["measure", "epoch"])["value"]
    curve = {f"accuracy_{e}": found.get(("accuracy", float(e)), np.nan) for e in range(1, EPOCHS + 1)}
    test = evaluate(model, images(row["data"], "test"))["accuracy"] if run.status == "complete" else np.nan
    return curve | {"status": run.status, "loss": found.get(("loss", float(EPOCHS)), np.nan), "test_accuracy": test}


# %%
arguments.out.mkdir(parents=True, exist_ok=True)
table_path = arguments.out / "will-it-train.csv"
rows = pd.read_csv(table_path).to_dict("records") if table_path.exists() else []
done = {tuple(row[key] for key in KEYS) for row in rows}
for _, row in tqdm(list(plan.iterrows()), desc="trainings", disable=None):
    if tuple(row[key] for key in KEYS) in done:
        continue
    try:
        rows.append(row.to_dict() | trained(row))
    except MissingDataError:
        continue
    write_bytes(table_path, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g").encode())
if arguments.train_only:
    raise SystemExit

# %% [markdown]
# What is known before each training: the features, and κ of the last block's output, from the first 64 images. The
# features were chosen after a look at the first 146 trainings; later ones, and MNIST, are the test of that choice.


# %%
def known_before(row: pd.Series) -> dict[str, float]:
    model = network(row)
    batch = tuple(part[:BATCH] for part in images(row["data"], "train"))
    features = initial_features(model, batch, lr=float(row["lr"]))
    outputs = dp.condition_numbers(model, [batch], tap="block", view="samples", progress=False)
    return features | {"log10_kappa": min(float(np.log10(outputs["condition_number"].iloc[-1])), 16.0)}


for row in tqdm(rows, desc="features", disable=None):
    if pd.isna(row.get("log10_kappa", np.nan)):
        row |= known_before(pd.Series(row))
write_bytes(table_path, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g").encode())
table = pd.DataFrame(rows)
table["trains"] = (table["accuracy_5"] >= 0.5) & (table["status"] == "complete")
if scale == "smoke":  # two updates an epoch train nothing: any two classes show that the rest runs
    table["trains"] = table["loss"] < table["loss"].median()
step = table["lr"] / 0.1
table["log10_gradient"] = (table["descent"] + table["loss_excess"] + np.log10(np.log(10) / step)) / 2
table["log10_lr"], table["log10_depth"] = np.log10(table["lr"]), np.log10(table["depth"])
words = table["data"] + " " + table["depth"].astype(str) + " layers, shortcut " + table["shortcut"] + ", "
words += np.where(table["batch_norm"], "batch norm, ", "no norm, ") + table["activation"] + ", " + table["init"]
table["words"] = words + " × " + table["init_gain"].astype(str) + ", lr " + table["lr"].astype(str)
table["fresh"] = np.arange(len(table)) >= SEEN
digits, first = table[table["data"] == "digits"], table[(table["data"] == "digits") & (table["seed"] == 0)]

# %% [markdown]
# The predictors: functions that are fitted on some trainings and give a score to others. The single numbers are
# logistic regressions in the number and its square; *settings alone* sees the options and no network;
# *boosted trees* see the features of `will_it_train` and may bend them as they like.

# %%
SETTINGS = ["shortcut", "batch_norm", "activation", "init"]


def ours(known: pd.DataFrame, asked: pd.DataFrame, label: str) -> np.ndarray:
    return calibrate(known, known[label]).probability(asked[list(FEATURES)])


def boosted(known: pd.DataFrame, asked: pd.DataFrame, label: str) -> np.ndarray:
    model = GradientBoostingClassifier(n_estimators=60, max_depth=3, learning_rate=0.1, random_state=0)
    return model.fit(known[list(FEATURES)], known[label]).predict_proba(asked[list(FEATURES)])[:, 1]


def regression(*columns: str):
    def predict(known: pd.DataFrame, asked: pd.DataFrame, label: str) -> np.ndarray:
        both = pd.concat([known, asked])
        values = both[[c for c in columns if c not in SETTINGS]].astype(float)
        terms = pd.concat([values, (values - values.median()) ** 2], axis=1).to_numpy()
        kinds = [c for c in columns if c in SETTINGS]
        if kinds:
            terms = np.hstack([terms, pd.get_dummies(both[kinds].astype(str)).to_numpy(dtype=float)])
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
        return model.fit(terms[: len(known)], known[label]).predict_proba(terms[len(known) :])[:, 1]

    return predict


PREDICTORS = {
    "will_it_train": ours,
    "boosted trees": boosted,
    "settings alone": regression("log10_lr", "log10_depth", "init_gain", *SETTINGS),
    "learning rate alone": regression("log10_lr"),
    "normalised or not": regression("batch_norm"),
    "gradient norm alone": regression("log10_gradient"),
    "κ alone": regression("log10_kappa"),
    "depth alone": regression("log10_depth"),
}


def out_of_fold(predict, frame: pd.DataFrame, label: str = "trains", *, n_folds: int = 5) -> np.ndarray:
    """Every configuration once held out, with all of its seeds."""
    names = frame["words"].unique()
    fold = dict(zip(names, np.random.default_rng(0).permutation(len(names)) % n_folds, strict=True))
    folds, found = frame["words"].map(fold).to_numpy(), np.full(len(frame), np.nan)
    for i in range(n_folds):
        found[folds == i] = predict(frame[folds != i], frame[folds == i], label)
    return found


def auc(outcome: pd.Series, score: np.ndarray, *, n_resamples: int = 2000) -> tuple[float, float, float]:
    """Area under the ROC curve (Mann-Whitney) with a 95 % bootstrap interval over trainings."""
    y, s = outcome.to_numpy(dtype=bool), np.asarray(score)
    if y.all() or not y.any():
        return (float("nan"),) * 3
    wins = (s[y][:, None] > s[~y]) + 0.5 * (s[y][:, None] == s[~y])
    drawn = np.random.default_rng(0).multinomial(len(y), np.full(len(y), 1 / len(y)), size=n_resamples)
    pairs = drawn[:, y].sum(1) * drawn[:, ~y].sum(1)
    areas = ((drawn[:, y] @ wins) * drawn[:, ~y]).sum(1)[pairs > 0] / pairs[pairs > 0]
    return (float(wins.mean()), *np.quantile(areas, [0.025, 0.975]))


def said(area: tuple[float, float, float]) -> str:
    return "–" if np.isnan(area[0]) else f"{area[0]:.3f} ({area[1]:.3f}–{area[2]:.3f})"


# %% [markdown]
# Held out: every configuration once (five folds); trainings made after the features were chosen; MNIST; every level of
# a factor once.

# %%
scores = {name: out_of_fold(predict, first) for name, predict in PREDICTORS.items()}
mnist, early, fresh = table[table["data"] == "mnist"], first[~first["fresh"]], first[first["fresh"]]
compared = pd.DataFrame(
    {
        "predictor": name,
        "area under the ROC curve": said(auc(first["trains"], score)),
        "right at 0.5": f"{((score >= 0.5) == first['trains']).mean():.1%}",
        "Brier score": f"{((score - first['trains']) ** 2).mean():.3f}",
        f"{fresh['fresh'].sum()} later trainings": said(auc(fresh["trains"], predict(early, fresh, "trains"))),
        "MNIST": said(auc(mnist["trains"], predict(digits, mnist, "trains"))) if len(mnist) else "–",
    }
    for (name, predict), score in zip(PREDICTORS.items(), scores.values(), strict=True)
)
levels = []
for factor in ["depth", "shortcut", "batch_norm", *LEVELS]:
    for level in sorted(first[factor].unique()):
        known, asked = digits[digits[factor] != level], first[first[factor] == level]
        row = {"held out": f"{factor} = {level}", "n": len(asked), "trained": int(asked["trains"].sum())}
        for name in ("will_it_train", "settings alone", "gradient norm alone"):
            both = known["trains"].nunique() == 2
            row[name] = said(auc(asked["trains"], PREDICTORS[name](known, asked, "trains"))) if both else "–"
        levels.append(row)

# %% [markdown]
# Does the answer hang on the definition, and how much do seeds differ?

# %%
DEFINITIONS = {
    "accuracy of the fifth epoch ≥ 50 % (the definition)": first["accuracy_5"] >= 0.5,
    "≥ 25 %": first["accuracy_5"] >= 0.25,
    "≥ 75 %": first["accuracy_5"] >= 0.75,
    "≥ 50 % in the third epoch already": first["accuracy_3"] >= 0.5,
    "test accuracy ≥ 50 % in evaluation mode": first["test_accuracy"] >= 0.5,
}
sensitivity = []
for name, outcome in DEFINITIONS.items():
    frame = first.assign(other=outcome)
    row = {"trains means": name, "trained": f"{outcome.mean():.0%}"}
    for which in ("will_it_train", "learning rate alone"):
        usable = outcome.sum() >= 5
        row[which] = said(auc(outcome, out_of_fold(PREDICTORS[which], frame, "other"))) if usable else "–"
    sensitivity.append(row)
repeated = digits.groupby("words")["trains"].agg(["size", "mean"]).query("size == 3")
agree = f"{int(repeated['mean'].isin([0, 1]).sum())} of {len(repeated)}"

# %% [markdown]
# What it misses: errors by factor, and the most confident ones.

# %%
probability = scores["will_it_train"]
judged = first.assign(probability=probability, wrong=(probability >= 0.5) != first["trains"])
misses = judged[judged["wrong"]].assign(off=(judged["probability"] - judged["trains"]).abs())
worst = misses.sort_values("off", ascending=False).head(12)
missed = pd.DataFrame(
    {
        "network and learning rate": worst["words"],
        "probability": worst["probability"].map("{:.2f}".format),
        "accuracy by epoch, %": [
            " ".join("–" if pd.isna(v) else f"{100 * v:.0f}" for v in r)
            for r in worst[[f"accuracy_{e}" for e in range(1, EPOCHS + 1)]].to_numpy()
        ],
    }
)
by_level = []
for factor in ["depth", "shortcut", "batch_norm", "activation", "lr"]:
    for level, part in judged.groupby(factor):
        false = int((part["wrong"] & ~part["trains"]).sum())
        row = {"level": f"{factor} = {level}", "n": len(part), "trained": int(part["trains"].sum())}
        by_level.append(row | {"missed": int(part["wrong"].sum()) - false, "false hopes": false})

# %% [markdown]
# The calibration that goes into the package (`deepprobe/diagnosis/prediction/calibration.json`) is fitted on all
# trainings of digits.

# %%
about = {
    "trains": "mean accuracy of training batches over updates 81 to 100 at least 50 %",
    "data": "digits, 8 × 8, batches of 64", "optimizer": "sgd, momentum 0.9, constant learning rate",
    "n_trainings": len(digits), "torch": torch.__version__.partition("+")[0],
    "limits": {"depth": [min(DEPTHS), max(DEPTHS)], "n_classes": 10, "batch_size": BATCH, "momentum": 0.9},
}  # fmt: skip
packaged = calibrate(digits, digits["trains"].to_numpy(), configurations=digits["words"].tolist(), about=about)
write_bytes(arguments.out / "will-it-train-calibration.json", packaged.to_json().encode())
weights = pd.DataFrame({"feature": FEATURES, "mean": packaged.centre[: len(FEATURES)]})
weights["weight a standard deviation"] = packaged.weights[: len(FEATURES)]
squares = dict(zip(TWO_SIDED, packaged.weights[len(FEATURES) :], strict=True))
weights["of its squared distance"] = [f"{squares[f]:+.2f}" if f in squares else "" for f in FEATURES]
weights = weights.round(2)
batch = tuple(part[:BATCH] for part in images("digits", "train"))
deepest = []
for shortcut, batch_norm in product(["none", "A"], [False, True]):
    row = {"network": f"shortcut {shortcut}, {'batch norm' if batch_norm else 'no norm'}"}
    for lr in (0.003, 0.03, 0.3):
        found = trainable_depth(
            lambda depth, s=shortcut, b=batch_norm: dp.create_model(
                "resnet", depth=depth, shortcut=s, batch_norm=b, base_width=8, in_channels=1, input_size=8, seed=0
            ),
            batch, lr=lr, depths=DEPTHS, using=packaged, progress=False,
        )  # fmt: skip
        row[f"lr {lr}"] = "none" if found.deepest is None else str(found.deepest)
    deepest.append(row)

# %% [markdown]
# Networks unlike the calibrated ones: 164 layers, twice as wide, colourless 14 × 14 images in batches of 128.

# %%
beyond = []
for name in ("plainnet164", "resnet164", "resnext164") if len(mnist) else ():
    pictures = tuple(p[:128] for p in images("mnist", "train"))
    for lr in (0.01, 0.05, 0.1):
        model = dp.create_model(name, in_channels=1, input_size=14, seed=0)
        found = will_it_train(model, pictures, lr=lr, using=packaged)
        row = {"network": name, "lr": lr, "probability": f"{found.probability:.2f}"}
        features = found.features.loc[found.features["outside"], "feature"]
        beyond.append(row | {"single features outside the calibrated range": ", ".join(features) or "no"})

# %%
long = pd.concat(
    pd.DataFrame({"predictor": name, "score": score, "outcome": first["trains"]})
    for name, score in scores.items()
    if name not in {"boosted trees", "normalised or not"}
)
axes = reports.roc_curves(long)
axes.figure.savefig(arguments.out / "will-it-train-roc.png", dpi=110, bbox_inches="tight")
plt.close(axes.figure)

counts = f"{len(first)} configurations on digits, of which {first['trains'].mean():.0%} trained"
numbers = "\n\n".join(
    [
        f"### Held-out configurations\n\nn = {counts}; each is predicted by a fit on the other four fifths. In "
        "brackets 95 % bootstrap intervals over trainings.",
        reports.markdown_table(compared),
        "![ROC curves](will-it-train-roc.png)",
        "### Whole levels held out\n\nFitted on digits without that level, asked about it.",
        reports.markdown_table(pd.DataFrame(levels)),
        "### Other definitions, other seeds\n\nThe same five folds, fitted to another meaning of *trains*. Of three "
        f"seeds (weights and order) all agreed in {agree} configurations.",
        reports.markdown_table(pd.DataFrame(sensitivity)),
        f"### What it misses\n\n{len(misses)} of {len(first)} are wrong at 0.5. The most confident errors:",
        reports.markdown_table(missed),
        "By level (missed: trains though probability < 0.5; false hope: fails though above):",
        reports.markdown_table(pd.DataFrame(by_level)),
        "### The packaged calibration\n\nFitted on all trainings of digits; log-odds, by feature:",
        reports.markdown_table(weights),
        "### How deep?\n\nDeepest network up to which all depths of the grid are predicted to train (ReLU, He):",
        reports.markdown_table(pd.DataFrame(deepest)),
        *(
            ["### 164 layers\n\nMNIST at 14 × 14, batches of 128:", reports.markdown_table(pd.DataFrame(beyond))]
            if beyond
            else []
        ),
    ]
)
print(reports.write_between_marks(arguments.out / "will-it-train.md", numbers))
