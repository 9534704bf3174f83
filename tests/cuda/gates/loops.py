"""Finds the loops of a kernel's machine code.

A loop is a natural loop: a back edge's target dominates its source, and the body is all code that
reaches the source without passing the target. So the body includes code that the compiler moved to
the end, behind a rarely taken branch. It excludes other code that only lies in between.
"""

import re

from .code import Instruction, Kernel


def successors(kernel: Kernel) -> list[list[int]]:
    """The possible successors of each instruction, by index."""
    code = kernel.instructions
    at = {instruction.address: i for i, instruction in enumerate(code)}
    rejoin: dict[str, int] = {}  # where threads reconverge, by their barrier
    found = []
    for i, instruction in enumerate(code):
        name = instruction.opcode.split(".")[0]
        label = re.search(r"`\((\.L_\w+)\)", instruction.operands)
        target = at[kernel.labels[label[1]]] if label and label[1] in kernel.labels else None
        # Some branches have their condition among the operands: BRA.U !UP0, `(.L_x_1).
        conditional = instruction.predicate or not instruction.operands.startswith("`")
        following = [i + 1] if i + 1 < len(code) else []
        if name in ("BRA", "JMP") or (name == "CALL" and not is_call(instruction)):
            found.append([target, *following] if conditional else [target])
        elif name in ("EXIT", "RET"):
            found.append(following if instruction.predicate else [])
        elif name == "BSSY":
            rejoin[instruction.operands.split(",")[0]] = target
            found.append(following)
        elif name == "BSYNC":
            met = rejoin.get(instruction.operands)
            found.append(following if met is None else [met])
        else:
            found.append(following)
    return [[j for j in after if j is not None] for after in found]


def _reached(start: int, edges: list[list[int]], without: int | None = None) -> set[int]:
    """The nodes that are reachable from `start` along the edges without passing `without`."""
    found, waiting = {start}, [start]
    while waiting:
        for j in edges[waiting.pop()]:
            if j not in found and j != without:
                found.add(j)
                waiting.append(j)
    return found


def loops(kernel: Kernel) -> list[list[Instruction]]:
    """Every loop's instructions, the smallest first."""
    blocks, edges = _blocks(successors(kernel))
    before: list[list[int]] = [[] for _ in blocks]
    for i, after in enumerate(edges):
        for j in after:
            before[j].append(i)
    reachable = _reached(0, edges)
    bodies: dict[int, set[int]] = {}
    for end in reachable:
        for head in edges[end]:
            if end != head and head != 0 and end in _reached(0, edges, without=head):
                continue  # another entry exists, so this is not a back edge
            body = {head} if end == head else {head} | _reached(end, before, without=head)
            bodies.setdefault(head, set()).update(body & reachable)
    found = [[i for block in sorted(body) for i in blocks[block]] for body in bodies.values()]
    return [[kernel.instructions[i] for i in loop] for loop in sorted(found, key=len)]


def _blocks(after: list[list[int]]) -> tuple[list[range], list[list[int]]]:
    """Basic blocks of instructions, and their successors."""
    starts = {0}
    for i, following in enumerate(after):
        if following != [i + 1]:
            starts.update(following, [i + 1])
    order = sorted(start for start in starts if start < len(after))
    number = {start: i for i, start in enumerate(order)}
    blocks = [range(a, b) for a, b in zip(order, [*order[1:], len(after)], strict=True)]
    return blocks, [[number[j] for j in after[block[-1]]] for block in blocks]


def main_loop(kernel: Kernel, holds: dict[str, int]) -> list[Instruction] | None:
    """The smallest loop with at least the named number of each instruction, or None."""
    for loop in loops(kernel):
        if all(sum(i.is_a(wanted) for i in loop) >= n for wanted, n in holds.items()):
            return loop
    return None


def is_call(instruction: Instruction) -> bool:
    """Whether a function is called. ptxas also writes CALL for a jump within the kernel."""
    return instruction.is_a("CALL") and "`(.L_" not in instruction.operands


def divisions(code: list[Instruction]) -> list[Instruction]:
    """Where integers are divided: by a reciprocal that is rounded up, or in 64 bits by a call."""
    return [i for i in code if i.is_a("I2F.RP") or is_call(i)]
