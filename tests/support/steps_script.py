"""A script whose driver goes on from its checkpoints, for allocations that end."""

STEPS = """\
import time
import park

class Steps:
    def run(self):
        env = park.environment()
        state = env.restored or {"step": 0, "began": []}
        state["began"].append(state["step"])
        print("begins at", state["step"], flush=True)
        while state["step"] < %d:
            env.ready()
            time.sleep(%g)
            state["step"] += 1
            if env.should_checkpoint:
                env.checkpoint(state)
        return state["began"]

steps = Steps()
"""


def steps_script(steps: int, seconds: float) -> str:
    """The script ``steps.py``: its body ``steps`` makes *steps* steps of *seconds* each, and returns where it began."""
    return STEPS % (steps, seconds)
