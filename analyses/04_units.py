# %% [markdown]
# # Which units do the work: in PlainNet-164, in ResNet-164 and in its tickets?
#
# Turns trained networks into the numbers of `docs/results/units.md`, three seeds each: dead units, how few units hold
# the attribution, which ranking of units predicts damage, whether a ticket keeps what mattered, Jacobians, similarity,
# and what `deepprobe diagnose` says. The networks come from the recipe `analyses/recipes/mnist-units-lottery-cpu.toml`:
#
#     deepprobe lottery --config analyses/recipes/mnist-units-lottery-cpu.toml
#     deepprobe train plainnet164 …                                    # the recipe's head says how
#     python analyses/04_units.py --tickets runs/mnist-units --plain runs/mnist-units-plain
#
# Tables are kept in `--work`, one file a network and measure: a script that was stopped goes on behind the last.
# `--smoke` first makes small networks of a few digits and works on these.

# %%
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

import deepprobe as dp
from deepprobe import attribution, probes, reports
from deepprobe.reports import made_on, markdown_table, spread, write_between_marks

parser = argparse.ArgumentParser(description="Tables and figures of docs/results/units.md.")
parser.add_argument("--tickets", type=Path, default=Path("runs/mnist-units"), help="lottery experiment of the ResNet")
parser.add_argument("--plain", type=Path, default=Path("runs/mnist-units-plain"), help="folder of runs of the PlainNet")
parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the page and its figures")
parser.add_argument("--work", type=Path, help="folder of the tables; by default beside the tickets")
parser.add_argument("--data-dir", type=Path, help="folder of the data sets' files")
parser.add_argument("--smoke", action="store_true", help="make small networks and show these")
arguments, _ = parser.parse_known_args()
torch.set_num_threads(1)
ATTRIBUTED, TESTED, STEPS = (16, 32, 4) if arguments.smoke else (128, 512, 16)
RANKINGS = ["conductance", "gradient_x_activation", "weight_magnitude", "activation_variance"]

# %%
if arguments.smoke:
    arguments.tickets, arguments.plain = arguments.out / "tickets", arguments.out / "plain"
    splits = [dp.load_dataset("digits", split=split, limit=128).tensors() for split in ("train", "test")]
    training, about = dp.TrainConfig(epochs=1), {"data": {"name": "digits", "input_size": 8}}
    small = dp.LotteryConfig(training=training, rounds=1, controls=(), probe_samples=0)
    dp.run_lottery("resnet8", splits, small, out=arguments.tickets, about=about, quiet=True)
    plain = dp.create_model("plainnet8", in_channels=1, input_size=8)
    dp.train(plain, splits[0], test_set=splits[1], config=training, out=arguments.plain, about=about, quiet=True)
work = arguments.work or arguments.tickets.with_name(f"{arguments.tickets.name}-tables")

experiment = dp.open_experiment(arguments.tickets)
chain = experiment.runs().query("status == 'complete' and branch == 'ticket'")
last = chain["round"].max()
residual, density = experiment.config["model"]["name"], chain.loc[chain["round"] == last, "density"].mean()
TICKET = f"ticket, {density:.0%} left"
plains = [path for path in dp.list_runs(arguments.plain).query("status == 'complete'")["path"]]
PLAIN = dp.open_run(plains[0]).config["model"]["name"]
networks = [(PLAIN, seed, Path(path)) for seed, path in enumerate(plains)]
networks += [(residual, row.seed, Path(row.path)) for row in chain[chain["round"] == 0].itertuples()]
networks += [(TICKET, row.seed, Path(row.path)) for row in chain[chain["round"] == last].itertuples()]
NAMES = [PLAIN, residual, TICKET]

data = experiment.config["data"]
images, labels = dp.load_dataset(
    data["name"], data_dir=arguments.data_dir, split="test", input_size=data.get("input_size"),
    limit=ATTRIBUTED + TESTED,
).tensors()  # fmt: skip
attributed, tested = (images[:ATTRIBUTED], labels[:ATTRIBUTED]), (images[ATTRIBUTED:], labels[ATTRIBUTED:])

# %% [markdown]
# Everything that is measured of one network, each a table; attributions on other images than ablation.


# %%
def units(model, path, known):
    return probes.unit_profiles(model, [tested], progress=False)


def attributions(model, path, known):
    methods = ["conductance", "gradient-x-activation"]
    return attribution.attributions(model, [attributed], methods, n_steps=STEPS, progress=False)


def concentration(model, path, known):
    return attribution.concentration(known["attributions"])


def agreement(model, path, known):
    return attribution.agreement(known["attributions"], RANKINGS)


def ablation(model, path, known):
    return attribution.ablation_curves(
        model, [tested], known["attributions"], rankings=RANKINGS, fractions=(0.05, 0.1, 0.2, 0.4), value="mean",
        repeats=2, progress=False,
    )  # fmt: skip


def kept(model, path, known):
    """Of the dense network of the same seed: what its attributions have to do with the mask drawn from it."""
    masks = experiment.masks(path.name.replace("round00", f"round{last:02d}"))
    return attribution.mask_relation(known["attributions"], masks)


def jacobian(model, path, known):
    return probes.input_jacobian(model, [tested], n_samples=32, progress=False)


def findings(model, path, known):
    return dp.diagnose(model, [(images, labels)], lr=0.05, progress=False).table()


PARTS = [units, attributions, concentration, agreement, ablation, jacobian, findings]
found = {part.__name__: [] for part in [*PARTS, kept]}
for name, seed, path in networks:
    known, model = {}, None
    for part in [*PARTS, *([kept] if name == residual else [])]:
        file = work / f"{path.name}-{part.__name__}.csv"
        if not file.exists():
            model = model or dp.load_model(path)
            reports.write_csv(part(model, path, known), file)
        known[part.__name__] = pd.read_csv(file, keep_default_na=False, na_values=["", "nan"])
        found[part.__name__].append(known[part.__name__].assign(network=name, seed=seed))
    print(name, seed, path)
tables = {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}

# %% [markdown]
# One row a network: medians over layers or samples first, then the mean over seeds with the lowest and the highest.


# %%
def by_network(rows: dict[str, pd.Series | tuple[pd.Series, str]], **formats: str) -> pd.DataFrame:
    """A row a network from numbers by (network, seed)."""
    columns = {
        title: [spread(values[values.index.get_level_values("network") == name], formats[title]) for name in NAMES]
        for title, values in rows.items()
    }
    seeds = tables["units"].groupby("network")["seed"].nunique()
    return pd.DataFrame({"network": NAMES, "seeds": [seeds[name] for name in NAMES], **columns})


def per_seed(table: pd.DataFrame, column: str, how: str = "median") -> pd.Series:
    """A number a network and seed."""
    return table.groupby(["network", "seed"])[column].agg(how)


def outcome() -> pd.DataFrame:
    unit, first = tables["units"], tables["ablation"].query("fraction == 0 and ranking == 'random' and repeat == 0")
    for state in ("dead", "rare", "duplicate"):
        unit[state] = unit[state].astype(str).eq("True") * 100.0
    return by_network(
        {
            "accuracy, %": per_seed(first, "accuracy") * 100,
            "units": per_seed(unit, "unit", "size"),
            "dead, %": per_seed(unit, "dead", "mean"),
            "rare, %": per_seed(unit, "rare", "mean"),
            "copies, %": per_seed(unit, "duplicate", "mean"),
            "fire in, % of rows": per_seed(unit, "firing_rate") * 100,
            "class selectivity": per_seed(unit[unit["dead"] == 0], "class_selectivity"),
        },
        **{"accuracy, %": ".1f", "units": ".0f", "dead, %": ".1f", "rare, %": ".2f", "copies, %": ".1f",
           "fire in, % of rows": ".0f", "class selectivity": ".2f"},
    )  # fmt: skip


def concentrated() -> pd.DataFrame:
    shared, last_layer = tables["concentration"], tables["attributions"].query("layer == 'classifier'")
    titles = {"gini": "Gini", "top_1_share": "top 1 %", "top_5_share": "top 5 %", "top_10_share": "top 10 %"}
    rows = {title: per_seed(shared, column) * (1 if column == "gini" else 100) for column, title in titles.items()}
    rows["score − score of the baseline"] = per_seed(last_layer, "output_difference")
    rows["convergence delta of the last layer"] = per_seed(last_layer, "conductance_convergence_delta")
    formats = dict.fromkeys(rows, ".3g") | {"Gini": ".2f"}
    return by_network(rows, **formats)


def ablated() -> pd.DataFrame:
    curves, rows = tables["ablation"], []
    order = ["top", "random", "bottom"]
    for (name, ranking), part in curves.groupby(["network", "ranking"], sort=False):
        cells = {"network": name, "ranking": ranking}
        for fraction in sorted(curves["fraction"].unique())[1:4]:
            at = part[part["fraction"] == fraction].groupby(["order", "seed"])["accuracy"].mean() * 100
            values = [f"{at[way].mean():.0f}" for way in order if way in at.index.get_level_values(0)]
            cells[f"{fraction:.0%} gone"] = " / ".join(values)
        if ranking != "random":
            areas = [
                attribution.ablation_areas(rows_) for _, rows_ in curves[curves["network"] == name].groupby("seed")
            ]
            separations = pd.concat(areas).query("ranking == @ranking")["separation"]
            cells["separation, points"] = spread(separations, ".1f", factor=100)
        rows.append(cells)
    table = pd.DataFrame(rows).fillna("–")
    return table.sort_values("network", key=lambda names: names.map(NAMES.index), kind="stable")


def agreeing() -> pd.DataFrame:
    pairs = tables["agreement"].assign(pair=lambda t: t["first"] + " – " + t["second"])
    medians = pairs.groupby(["pair", "network", "seed"])["spearman"].median()
    rows = [{"pair": pair.replace("_", " ")} | {n: spread(medians.loc[pair].loc[n], ".2f") for n in NAMES}
            for pair in pairs["pair"].unique()]  # fmt: skip
    return pd.DataFrame(rows)


def relation() -> pd.DataFrame:
    table = tables["kept"]
    of_seed = table.groupby("seed").agg(layers=("layer", "size"), spearman=("spearman", "median"),
                                        positive=("spearman", lambda s: (s > 0).mean()),
                                        emptied=("n_emptied", "sum"), held=("emptied_share", "mean"))  # fmt: skip
    cells = {
        "layers": f"{of_seed['layers'].mean():.0f}",
        "median Spearman": spread(of_seed["spearman"], ".2f"),
        "layers where positive, %": spread(of_seed["positive"], ".0f", factor=100),
        "units emptied": spread(of_seed["emptied"], ".0f"),
        "share of attribution that these held, %": spread(of_seed["held"], ".1f", factor=100),
    }
    return pd.DataFrame([cells])


def jacobians() -> pd.DataFrame:
    columns = {"sigma_max": "σ_max", "sigma_min": "σ_min", "condition_number": "κ", "jacobian_norm": "‖J‖_F"}
    rows = {title: per_seed(tables["jacobian"], column) for column, title in columns.items()}
    return by_network(rows, **dict.fromkeys(rows, ".3g"))


def diagnosed() -> pd.DataFrame:
    seen = tables["findings"].groupby(["network", "rule"]).agg(
        seeds=("seed", "nunique"), severity=("severity", "max"), says=("says", "first")
    )  # fmt: skip
    table = seen.reset_index().sort_values(["severity"], ascending=False, kind="stable")
    return table.sort_values("network", key=lambda names: names.map(NAMES.index), kind="stable")


# %% [markdown]
# Figures. Similarity between two seeds of a network, and of the dense network to its ticket; others as tables above.


# %%
def saved(what: str, figure: plt.Figure) -> str:
    path = arguments.out / f"units-{what}.png"
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return f"![{what}]({path.name})"


def first_of(name: str, seed: int = 0) -> Path:
    return next(path for network, s, path in networks if network == name and s == seed)


def alike(first: Path, second: Path) -> pd.DataFrame:
    file = work / f"{first.name}-{second.name}-similarity.csv"
    if not file.exists():
        models = [dp.load_model(path) for path in (first, second)]
        table = dp.similarity(models[0], [attributed], models[1], tap="block", progress=False)
        reports.write_csv(table, file)
    return pd.read_csv(file)


def ablation_figure() -> plt.Figure:
    keys = ["ranking", "order", "repeat", "fraction"]
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), sharey=True, layout="constrained")
    for ax, name in zip(axes, NAMES, strict=True):
        curves = tables["ablation"].query("network == @name").groupby(keys, sort=False)["accuracy"].mean()
        reports.ablation_by_fraction(curves.reset_index(), ax)
        ax.annotate(name, (0.97, 0.94), xycoords="axes fraction", ha="right")
    for ax in axes[1:]:
        ax.get_legend().remove()
    return figure


def distribution_figure() -> plt.Figure:
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.4), layout="constrained")
    for ax, name in zip(axes, NAMES, strict=True):
        table = probes.distributions(dp.load_model(first_of(name)), [tested], progress=False)
        reports.distribution_by_depth(table, ax).annotate(name, (0.97, 0.04), xycoords="axes fraction", ha="right")
    return figure


def similarity_figure() -> plt.Figure:
    seeds = sorted({seed for _, seed, _ in networks})[:2]
    pairs = [((name, seeds[0]), (name, seeds[-1])) for name in NAMES[:2]] + [((residual, seeds[0]), (TICKET, seeds[0]))]
    figure, axes = plt.subplots(1, 3, figsize=(15, 3.8), gridspec_kw={"wspace": 0.35})
    for ax, (a, b) in zip(axes, pairs, strict=True):
        names = (f"{a[0]}, seed {a[1]}", f"{b[0]}, seed {b[1]}")
        reports.similarity_heatmap(alike(first_of(*a), first_of(*b)), ax, names=names)
    return figure


few = [int((labels == digit).nonzero()[0, 0]) for digit in (2, 5, 7)]
pictures = {
    name: attribution.input_attributions(dp.load_model(first_of(name)), (images[few], labels[few])) for name in NAMES
}

# %%
arguments.out.mkdir(parents=True, exist_ok=True)
run = dp.open_run(networks[0][2])
training = run.config["training"]
parts = [
    f"n = {len(networks)} networks: {', '.join(NAMES)}; {len(plains)} seeds each. {data['name']}, "
    f"{images.shape[-2]} × {images.shape[-1]}; {training['epochs']} epochs, batch {training['batch_size']}, "
    f"{training['optimizer']} at {training['lr']} ({training['schedule']}), {training['precision']}. Attributions on "
    f"{ATTRIBUTED} test images with {STEPS} points on a path, all else on {TESTED} others. {made_on(run.provenance)}",
    "### Units", markdown_table(outcome()), saved("distributions", distribution_figure()),
    "### How few units hold the attribution", markdown_table(concentrated()),
    saved("concentration", reports.concentration_by_depth(tables["concentration"]).figure),
    "### What is lost with them", markdown_table(ablated()), saved("ablation", ablation_figure()),
    "### Do the rankings agree?", markdown_table(agreeing()),
    "### Does the mask keep what mattered?", markdown_table(relation()),
    "### What pixels add to the score", saved("pictures", reports.attribution_pictures(pictures)),
    "### Are seeds alike, and a ticket and its origin?", saved("similarity", similarity_figure()),
    "### Jacobians from image to scores", markdown_table(jacobians()),
    "### What deepprobe diagnose says", markdown_table(diagnosed()),
]  # fmt: skip
page = write_between_marks(arguments.out / "units.md", "\n\n".join(parts) + "\n")
print(page)
