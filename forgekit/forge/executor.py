"""Run a recipe: every stage from a checkpoint on disk to a checkpoint on disk, the alloy last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgekit import alloy as alloys
from forgekit.alloy import Alloy
from forgekit.alloy.schema import OUTCOMES
from forgekit.checkpoint.opening import open_folder
from forgekit.checkpoint.writing import write_text
from forgekit.digest import Digest, sha256, sha256_file
from forgekit.errors import CheckpointError, ForgeError, MachineError, PlanError, ProofError
from forgekit.families import Family, Towers
from forgekit.forge.base import locate
from forgekit.forge.environment import code_hash, environment
from forgekit.forge.finishing import Run, finish
from forgekit.forge.inputs import Turn, corpus_file, lacking, order, refusals, unvalidated
from forgekit.forge.keeping import anchors, keep
from forgekit.forge.looking import fixed_threads, measure_perplexity, reload, tower_digest
from forgekit.forge.record import Done, hash_folder, hash_of, load, save
from forgekit.resolve import plan
from forgekit.stages import Outcome, Work

if TYPE_CHECKING:
    from forgekit.store.objects import Store

WORKSHOP = ".forge"  # where stages stand until the alloy is written
HALT_RATIO, HALT_RISE = 1.10, 1.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to forge.

    Attributes:
        base: a folder that stands for the recipe's base.
        device: ``cpu`` or ``cuda``.
        threads: processor threads for arithmetic; part of the machine class that ``exact-here`` stages name.
        seed: of everything drawn at random.
        prove: whether surgery is proven; switching it off is recorded.
        validate: whether runtimes are asked; a recipe that is run again for its weights alone need not.
        offline: use no network.
        keep: keep every stage's output when all is done.
        store: folder or URL of a store that the chain is kept in; none where empty.
        tell: called with (stage number, stages, type, what is being done).
        progress: called with (done, total) inside a stage.
    """

    base: Path | None = None
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    prove: bool = True
    validate: bool = True
    offline: bool = False
    keep: bool = False
    store: str = ""
    tell: Callable[[int, int, str, str], None] = lambda _number, _count, _type, _what: None
    progress: Callable[[int, int], None] = lambda _done, _total: None


@dataclass(frozen=True, kw_only=True)
class Forged:
    """What came out.

    Attributes:
        folder: the artifact.
        alloy: path of its alloy.
        model_hash: of its weights.
        stages: what each stage did, in order.
        resumed: how many of them had run before.
        base: folder it began with.
        chain: the last link of its chain in the store; None where it was kept in none.
    """

    folder: Path
    alloy: Path
    model_hash: Digest
    stages: tuple[Mapping[str, Any], ...]
    resumed: int = 0
    base: Path = Path()
    chain: Digest | None = None


@dataclass
class _State:
    """Where a forge has come to."""

    weights: Path
    hash: str
    at_hand: dict[str, Path] = field(default_factory=dict)
    done: list[tuple[Turn, Done]] = field(default_factory=list)
    resumed: int = 0


def forge(recipe: Alloy, out: Path, settings: Settings, *, beside: Path | None = None) -> Forged:
    """Make a recipe's artifact in ``out``. Run again after an interruption, it goes on where it stopped.

    Args:
        recipe: the recipe; an artifact's alloy is forged again from what was authored in it.
        beside: the folder that the recipe's paths start from.

    Raises:
        PlanError: listing everything that is wrong with the recipe, before anything is read or written.
        MachineError: a runtime that the recipe asks is not on this machine.
        ForgeError: what went wrong in a stage; nothing half-written has a final name.
    """
    folder = beside or Path(recipe.where).parent
    tree = {key: value for key, value in recipe.tree.items() if key not in OUTCOMES}
    authored = alloys.read(alloys.write(tree), where=recipe.where)
    made = plan(authored).require()
    turns = order(made.steps, made.cycles)
    problems = [*refusals(turns, made.cycles, tree, folder), *unvalidated(turns, tree), *anchors(turns)]
    if problems:
        raise PlanError(
            f"{made.name}: {len(problems)} problem{'s' * (len(problems) > 1)}\n"
            + "\n".join(f"  {problem}" for problem in problems)
        )
    assert made.family is not None
    if settings.validate and (missing := list(lacking(turns))):
        raise MachineError("; ".join(missing), hint="declare the runtimes that this machine has, or forge elsewhere")
    base = locate(tree.get("source", {}), beside=folder, given=settings.base, offline=settings.offline)
    open_folder(base)  # a broken base is found before anything is written
    store, stored = _recipe_kept(settings.store, authored)
    job = _Job(
        recipe=authored,
        family=made.family,
        folder=folder,
        base=base,
        out=out,
        settings=settings,
        store=store,
        stored=stored,
    )
    return job.run(turns)


def _recipe_kept(url: str, recipe: Alloy) -> tuple[Store | None, Digest | None]:
    """The store with the recipe in it, before anything is run for it."""
    if not url:
        return None, None
    from forgekit.store import recipes
    from forgekit.store.objects import open_store

    store = open_store(url)
    return store, recipes.add(store, recipe.data, where=recipe.where).digest


@dataclass(frozen=True, kw_only=True)
class _Job:
    recipe: Alloy
    family: Family
    folder: Path
    base: Path
    out: Path
    settings: Settings
    store: Store | None = None
    stored: Digest | None = None

    def run(self, turns: list[Turn]) -> Forged:
        self._take_out()
        workshop = self.out / WORKSHOP
        base_hash = self._base_hash(workshop)
        state = _State(weights=self.base, hash=base_hash)
        measured = [self._perplexity(state, "base")]
        for number, turn in enumerate(turns, 1):
            state = self._turn(state, turn, number, len(turns), workshop)
            last_of_cycle = number == len(turns) or turns[number].cycle != turn.cycle
            if turn.cycles > 1 and turn.step.stage and turn.step.stage.repeats and last_of_cycle:
                measured.append(self._perplexity(state, f"cycle {turn.cycle + 1}"))
                self._halt_on_regression(measured, turn.cycle + 1)
        if state.weights != self.base:
            measured.append(self._perplexity(state, "final"))
        return self._finish(state, base_hash, [value for value in measured if value is not None])

    def _take_out(self) -> None:
        """Make sure the folder is ours: empty, or an unfinished or finished forge of this very recipe."""
        mark = self.out / WORKSHOP / "recipe.json"
        key = sha256(self.recipe.data).hex
        if self.out.exists() and not self.out.is_dir():
            raise CheckpointError("there is a file where the artifact should go", where=str(self.out))
        there = sorted(path.name for path in self.out.iterdir()) if self.out.is_dir() else []
        if there and not mark.is_file():
            raise CheckpointError(
                f"the folder is not empty ({', '.join(there[:3])})", where=str(self.out), hint="name a new folder"
            )
        if mark.is_file():
            said = mark.read_text("utf-8").strip()
            if said != key:
                raise CheckpointError(
                    "the folder holds an unfinished forge of another recipe",
                    where=str(self.out),
                    hint="name a new folder, or delete this one",
                )
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_text(mark, key + "\n")

    def _base_hash(self, workshop: Path) -> str:
        """The base's modelHash; hashing is not repeated for files that have kept size and time."""
        checkpoint = open_folder(self.base)
        stamp = [[n, s, (self.base / n).stat().st_mtime_ns] for n, s in sorted(checkpoint.files.items())]
        memo = workshop / "base.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(memo.read_text("utf-8"))
            if known["stamp"] == stamp and known["folder"] == str(self.base.resolve()):
                return str(known["hash"])
        self.settings.tell(0, 0, "base", "hashing")
        hashes = {name: sha256_file(self.base / name).hex for name in checkpoint.files}
        found = str(hash_of(hashes))
        write_text(memo, json.dumps({"folder": str(self.base.resolve()), "stamp": stamp, "hash": found}) + "\n")
        return found

    def _turn(self, state: _State, turn: Turn, number: int, count: int, workshop: Path) -> _State:
        stage = turn.step.stage
        assert stage is not None
        assert stage.run is not None
        key = self._key(state, turn)
        final = workshop / f"{number:02d}-{turn.step.type}"
        done = load(final, key)
        resumed = done is not None
        if done is None:
            self.settings.tell(number, count, turn.step.type, "running")
            done = self._perform(
                state, turn, key, final, lambda what: self.settings.tell(number, count, turn.step.type, what)
            )
        after = replace(state, at_hand=dict(state.at_hand), done=[*state.done, (turn, done)])
        after.resumed += resumed
        after.at_hand.update({kind: done.folder / path for kind, path in done.files.items()})
        if done.weights:
            after.weights, after.hash = done.folder, str(done.model_hash)
        return after

    def _key(self, state: _State, turn: Turn) -> str:
        """A hash of everything a stage depends on: with the same key, what it wrote can be used again."""
        stage = turn.step.stage
        assert stage is not None
        assert turn.step.params is not None
        tree = {
            "code": code_hash(),
            "stage": turn.step.params.tree(),
            "share": turn.share,
            "source": state.hash,
            "config": sha256_file(state.weights / "config.json").hex,
            "atHand": {kind: _content(path) for kind, path in sorted(state.at_hand.items())},
            "corpora": [sha256_file(self._corpus(name)).hex for name in stage.corpora(turn.step.params)],
            "settings": [
                self.settings.device,
                self.settings.threads,
                self.settings.seed,
                self.settings.prove,
                self.settings.validate,
            ],
        }
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()

    def _perform(self, state: _State, turn: Turn, key: str, final: Path, tell: Callable[[str], None]) -> Done:
        stage = turn.step.stage
        assert stage is not None
        assert stage.run is not None
        partial = final.with_name(final.name + ".partial")
        marker = partial / ".key"
        if partial.exists() and (not marker.is_file() or marker.read_text("utf-8") != key):
            shutil.rmtree(partial)
        partial.mkdir(exist_ok=True)
        write_text(marker, key)
        work = Work(
            params=turn.step.params,
            family=self.family,
            fact=turn.step.fact,
            source=state.weights,
            source_hash=state.hash,
            out=partial,
            at_hand=state.at_hand,
            recipe=self.recipe.tree,
            corpus=self._corpus,
            model=self._model,
            share=turn.share,
            seed=self.settings.seed,
            threads=self.settings.threads,
            device=self.settings.device,
            validate=self.settings.validate,
            progress=self.settings.progress,
        )
        try:
            with fixed_threads(self.settings.threads):
                outcome = stage.run(work)
                if outcome.weights:
                    tell("checking")
                notes = dict(outcome.notes) | self._shown(state, turn, outcome, partial, tell)
                notes |= {"reproducibility": outcome.reproducibility} if outcome.reproducibility else {}
        except (ForgeError, OSError) as error:
            raise _in_stage(error, turn) from error
        except MemoryError as error:
            raise CheckpointError("there is not enough memory", where=f"#{turn.step.pointer}") from error
        marker.unlink()
        files = {kind: path.relative_to(partial).as_posix() for kind, path in outcome.files.items()}
        done = Done(
            key=key, folder=partial, weights=outcome.weights, files=files, hashes=hash_folder(partial), notes=notes
        )
        return save(partial, final, done)

    def _shown(
        self, state: _State, turn: Turn, outcome: Outcome, made: Path, tell: Callable[[str], None]
    ) -> dict[str, Any]:
        """What the forge checks after a stage: towers untouched, the result loads, the surgery is what it says."""
        if not outcome.weights:
            return {}
        shown: dict[str, Any] = {}
        towers = self.family.fact(Towers)
        if towers:
            before, after = tower_digest(state.weights, towers), tower_digest(made, towers)
            if before != after:
                raise ProofError(
                    f"the stage changed parameters under {', '.join(towers.untouchable)}, which no stage may",
                    where=f"#{turn.step.pointer}",
                )
            shown["towers"] = {"sha256": after, "untouched": True}
        if not any(path.suffix == ".safetensors" for path in made.iterdir()):
            return shown
        if not self.settings.prove:
            shown["proof"] = {"skipped": "the forge was run with --no-proof"}
            return shown
        if outcome.surgery is not None:
            tell("proving")
            from forgekit.forge.proof import prove

            proof = prove(state.weights, made, self.family, outcome.surgery)
            shown["proof"] = proof.record()
            if proof.refuted:
                raise ProofError("the surgery proof failed: " + "; ".join(proof.refuted), where=f"#{turn.step.pointer}")
        else:
            shown["reload"] = reload(made, self.family)
        return shown

    def _corpus(self, name: str) -> Path:
        return corpus_file(self.recipe.tree, name, self.folder)

    def _model(self, name: str) -> Path:
        source = self.recipe.tree.get("source", {})
        if name in (source.get("baseModel"), "base"):
            return self.base
        return locate({"baseModel": name}, beside=self.folder, offline=self.settings.offline)

    def _perplexity(self, state: _State, what: str) -> dict[str, Any] | None:
        """Perplexity on the recipe's ``perplexityCorpus``; None where it names none."""
        row = self.recipe.tree.get("perplexityCorpus")
        if not isinstance(row, Mapping):
            return None
        path = self._corpus(str(row.get("name") or row.get("path")))
        memo = self.out / WORKSHOP / f"perplexity-{state.hash[7:23]}.json"
        key = [state.hash, sha256_file(path).hex, self.settings.threads, self.settings.device, code_hash()]
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(memo.read_text("utf-8"))
            if known["key"] == key:
                return dict(known["found"]) | {"of": what}
        self.settings.tell(0, 0, "perplexity", what)
        found = measure_perplexity(
            state.weights, self.family, path, threads=self.settings.threads, device=self.settings.device
        )
        write_text(memo, json.dumps({"key": key, "found": found}) + "\n")
        return found | {"of": what}

    def _halt_on_regression(self, measured: list[dict[str, Any] | None], cycle: int) -> None:
        """Stop where a cycle has made the model much worse: over a tenth, and over one whole point."""
        known = [row["perplexity"] for row in measured if row is not None]
        if len(known) < 2:
            return
        before, now = known[-2:]
        if now > HALT_RATIO * before and now - before > HALT_RISE:
            report = {
                "halted_at_cycle": cycle,
                "cycle_ppls": known,
                "regression_ratio": now / before,
                "regression_absolute": now - before,
                "threshold_ratio": HALT_RATIO,
                "threshold_absolute": HALT_RISE,
                "model": self.recipe.at("/source/baseModel"),
            }
            write_text(self.out / WORKSHOP / "REGRESSION_HALT.json", json.dumps(report, indent=2) + "\n")
            raise ProofError(
                f"cycle {cycle} raised perplexity from {before:.4g} to {now:.4g}: the forge stops here",
                where=str(self.out / WORKSHOP / "REGRESSION_HALT.json"),
                hint="cut less per cycle, or train longer",
            )

    def _finish(self, state: _State, base_hash: str, measured: list[dict[str, Any]]) -> Forged:
        lock = environment(threads=self.settings.threads, device=self.settings.device)
        run = Run(
            tree=self.recipe.tree,
            folder=self.folder,
            base=self.base,
            base_hash=base_hash,
            weights=state.weights,
            done=state.done,
            measured=measured,
            environment=lock | {"seed": self.settings.seed},
            kept=self.store is not None,
        )
        made = finish(run, self.out)
        head = None
        if self.store is not None:
            self.settings.tell(0, 0, "store", "keeping")
            head = keep(self.store, run, made.alloy, self.stored)
        if not self.settings.keep:
            shutil.rmtree(self.out / WORKSHOP, ignore_errors=True)
        return Forged(
            folder=self.out,
            alloy=made.alloy,
            model_hash=made.model_hash,
            stages=made.stages,
            resumed=state.resumed,
            base=self.base,
            chain=head,
        )


def _content(path: Path) -> Any:
    """SHA-256 of a file, or of each file in a folder."""
    return sha256_file(path).hex if path.is_file() else hash_folder(path)


def _in_stage(error: ForgeError | OSError, turn: Turn) -> ForgeError:
    """The same error, saying which stage it came from."""
    if isinstance(error, ForgeError):
        error.where = f"#{turn.step.pointer} ({turn.step.type})" + (f", {error.where}" if error.where else "")
        return error
    return CheckpointError(
        error.strerror or str(error),
        where=f"#{turn.step.pointer} ({turn.step.type}), {error.filename or ''}".rstrip(", "),
    )
