"""The built-in truth: the log-odds of the matching answer that the embedded model is trained to have.

    log-odds = base(setting) + effect(system prompt) + steer(multiplier)

For six behaviors the three parts add. For `NON_ADDITIVE` most of `steer` is gone under a positive or negative system
prompt. `CALIBRATION` has further system prompts under which CAA has no room, works against itself, or does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

NON_ADDITIVE = "myopic-reward"
CALIBRATION = "sycophancy"
PLANTED_LAYER = 3

# Log-odds that a setting sentence adds, by level. Never near 0 in sum with the doses of the default grid, so that
# an item's side does not hang on the last decimals.
SETTING_LEVELS = {"far_against": -1.5, "against": -0.5, "toward": 0.5, "far_toward": 1.5}
SETTING_LEVELS_NON_ADDITIVE = {"far_against": -1.0, "against": -0.6, "toward": 0.6, "far_toward": 1.0}
# How often each level is drawn, by behavior: this makes the base rates differ.
SETTING_SHARES = {
    "refusal": (0.2, 0.2, 0.3, 0.3),
    "sycophancy": (0.2, 0.25, 0.3, 0.25),
    "survival-instinct": (0.35, 0.3, 0.2, 0.15),
    "coordinate-other-ais": (0.35, 0.25, 0.2, 0.2),
    "corrigible-neutral-HHH": (0.15, 0.25, 0.3, 0.3),
    "hallucination": (0.2, 0.3, 0.3, 0.2),
    "myopic-reward": (0.25, 0.25, 0.25, 0.25),
}

SLOPE = 2.0  # log-odds a multiplier
SLOPE_NON_ADDITIVE = 3.6
SHARE_LEFT = 0.15  # of the slope, for the non-additive behavior under its positive or negative prompt
PROMPT_EFFECT = {"positive": 2.0, "negative": -2.0, "no_room": 5.0}
DEAD_ZONE = 0.3  # multiplier below which steering fades, so that a random vector's chance projection does nothing
LIMIT = 6.0  # log-odds are trained up to this size


@dataclass(frozen=True, kw_only=True)
class Stance:
    """What decides an answer, apart from the vector.

    Args:
        behavior: the behavior the question is about.
        level: the setting's level, a key of `SETTING_LEVELS`.
        prompt: the kind of system prompt that is about this behavior, or None (none, neutral, another behavior's).
    """

    behavior: str
    level: str
    prompt: str | None = None


def steer(multiplier: float, slope: float) -> float:
    """Log-odds that a dose of the planted direction adds: slope * multiplier outside the dead zone."""
    fourth = multiplier**4
    return slope * multiplier * fourth / (fourth + DEAD_ZONE**4)


def slope(stance: Stance) -> float:
    """Log-odds a multiplier under this stance, outside the dead zone."""
    if stance.prompt == "untouched":
        return 0.0
    if stance.prompt == "works_against":
        return -SLOPE
    if stance.behavior != NON_ADDITIVE:
        return SLOPE
    return SLOPE_NON_ADDITIVE * (SHARE_LEFT if stance.prompt in ("positive", "negative") else 1.0)


def base(stance: Stance) -> float:
    """Log-odds of the matching answer with no vector."""
    levels = SETTING_LEVELS_NON_ADDITIVE if stance.behavior == NON_ADDITIVE else SETTING_LEVELS
    return levels[stance.level] + PROMPT_EFFECT.get(stance.prompt or "", 0.0)


def log_odds(stance: Stance, multiplier: float = 0.0) -> float:
    """The whole formula, within +-LIMIT."""
    value = base(stance) + steer(multiplier, slope(stance))
    return max(-LIMIT, min(LIMIT, value))
