"""``guide``: run a pipeline's denoiser calls through a guidance rule."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from guidance.core.denoiser import network
from guidance.core.intercept import intercept
from guidance.core.plan import BATCHINGS
from guidance.core.rule import Rule
from guidance.core.run import Run
from guidance.core.target import Target


def guide(
    pipe_or_denoiser: Any,
    rule: Rule,
    *,
    scheduler: Any = None,
    batching: str = "joint",
) -> AbstractContextManager[Run]:
    """Guide every call of a pipeline, or of a denoiser in your own loop, inside a with block.

    Call the pipeline as without it: same arguments, its own guidance on if the rule needs the
    unconditional branch. Afterwards, also after an exception, everything is as it was before.

    Args:
        pipe_or_denoiser: diffusers pipeline, or its denoiser for people with their own loop, who
            then call it as the pipelines of that denoiser do.
        rule: guidance rule or chain such as ``CFG(6.0) + Rescale(0.7)``.
        scheduler: scheduler of your own loop; a pipeline's is used by default.
        batching: ``"joint"`` runs the branches of a step in one batch where the pipeline sends them
            together, ``"sequential"`` one by one for less memory.

    Returns:
        Context manager that yields the ``Run``.

    Raises:
        TypeError: the first argument is no pipeline or denoiser, the rule is no rule, or a bare
            denoiser comes without a scheduler.
        ValueError: an unknown or unsupported pipeline or denoiser, a rule that does not fit it, or
            unknown batching; on entering, a denoiser that is guided already.
    """
    if not isinstance(rule, Rule):
        raise TypeError(
            f"rule must be a guidance rule such as CFG(6.0), found {rule!r} "
            f"({type(rule).__name__}); text goes through parse_rule(text)"
        )
    if batching not in BATCHINGS:
        raise ValueError(f"batching must be one of {', '.join(BATCHINGS)}, found {batching!r}")
    target = Target(pipe_or_denoiser, scheduler)
    parts = target.denoisers.items()
    touched = dict.fromkeys(name for model, f in parts for name in rule.check(network(model), f))
    if target.pipe is None and rule.prompts():
        raise ValueError(
            f"{rule!r} has prompts to encode and a bare denoiser cannot: guide the pipeline instead"
        )
    rule.check_pipe(target.pipe, list(target.denoisers))
    return _guiding(target, Run(target, rule, batching, tuple(touched)))


@contextmanager
def _guiding(target: Target, run: Run) -> Iterator[Run]:
    with ExitStack() as stack:
        for model in target.denoisers:
            handler = functools.partial(run.call_denoiser, model)
            stack.enter_context(intercept(model, {"__call__": handler}))
        if target.pipe is not None:
            stack.enter_context(intercept(target.pipe, run.pipeline_handlers()))
        else:
            stack.enter_context(run.starter.on(target.scheduler, {}))
        yield run
        run.finish()
