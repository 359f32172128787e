"""Common beginnings of trainings, which are trained once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from gvit.reproduction.jobs import Training, Trunk, beginning_of, identity_of, job_folder
from gvit.reproduction.same_images import data_now
from gvit.training.config import TrainConfig
from gvit.training.schedule import Schedule


def share_trunks(trainings: Sequence[Training]) -> list[Training]:
    """The same trainings, those that begin alike from one trunk.

    Trainings begin alike when they differ in nothing but phases and guidance, up to the first step that one of them
    does in another way: the first phases don't depend on how the last one is guided. A trunk that is there already,
    of another table for example, serves a training that goes further with it than with the others.
    """
    groups: dict[TrainConfig, list[Training]] = {}
    for training in dict.fromkeys(trainings):
        if not training.done and not training.needs:
            groups.setdefault(beginning_of(training.config), []).append(training)
    branches: dict[Training, Training] = {}
    for members in groups.values():
        shared = _new_trunk(members)
        for member in members:
            trunks = [*([shared] if shared else []), *_finished_trunks(member)]
            if trunks:
                trunk = max(trunks, key=lambda trunk: trunk.steps)  # of equally long ones the shared one
                branches[member] = replace(member, trunk=trunk, needs=(trunk,))
    return [branches.get(training, training) for training in trainings]


def _new_trunk(members: Sequence[Training]) -> Trunk | None:
    """What several trainings have in common; None where that is nothing."""
    configs = [member.config for member in members]
    steps = _common_steps(configs) if len(members) > 1 else 0
    if not steps:
        return None
    config, schedule = configs[0], _schedule(configs[0])
    plans = [asdict(schedule.plan(step)) for step in range(steps)]
    identity = identity_of(beginning_of(config)) + json.dumps(
        [schedule.total, schedule.classify_start, plans]
    )
    store = members[0].folder.parent
    return Trunk(job_folder(store, f"trunk-seed{config.seed}", identity), (), config, steps)


def _finished_trunks(training: Training) -> list[Trunk]:
    """Those in its store that it could begin with."""
    found = []
    for file in sorted(training.folder.parent.glob(f"trunk-seed{training.config.seed}-*/result.json")):
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            # as asked for; that of the run is complete
            config = TrainConfig.from_json(json.dumps(result["config"]))
            trunk = Trunk(file.parent, (), config, result["steps"])
        except (ValueError, KeyError, TypeError):  # another version's, or damaged
            continue
        alike = result.get("begins", beginning_of(config).identity()) == identity_of(
            beginning_of(training.config)
        )
        same = alike and result.get("data") in (None, data_now(config.data)[1])
        if same and trunk.steps <= _common_steps([training.config, config]) and trunk.done:
            found.append(trunk)
    return found


def _schedule(config: TrainConfig) -> Schedule:
    return Schedule.from_config(config.schedule, data_now(config.data)[0])


def _common_steps(configs: Sequence[TrainConfig]) -> int:
    """Up to which step trainings that begin alike do the same, learning rates included."""
    schedules = [_schedule(config) for config in configs]
    first = schedules[0]
    # the cosine ends with the run, and the classifier's begins with its phase
    if any((s.total, s.classify_start) != (first.total, first.classify_start) for s in schedules):
        return 0
    steps = range(first.total)
    common = next(
        (step for step in steps if len({schedule.plan(step) for schedule in schedules}) > 1), first.total
    )
    # the same plan, but not the same step
    if len({(config.schedule.guide_lr, config.guidance) for config in configs}) > 1:
        common = min(common, *(schedule.steps_of("guide").start for schedule in schedules))
    return common
