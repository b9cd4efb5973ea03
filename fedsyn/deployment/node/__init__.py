"""What a node does with a message: the same client functions as in a simulation, on its own silos.

A node keeps nothing in memory between messages, each of which may find a new process. Under
``state`` it has a folder a run, with the features of its pairs and with what its clients kept of
the last two rounds. Which of the two the next round starts from is the server's to say: a round
whose answer was lost has not been. So a message that is repeated gives the same answer, bit by bit.
"""

from fedsyn.deployment.node.answering import answer
from fedsyn.deployment.node.settings import Limits, NodeConfig

__all__ = ["Limits", "NodeConfig", "answer"]
