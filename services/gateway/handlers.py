"""What the gateway consumes: nothing but the directory, which the core takes."""

from libs.contracts.envelope import Fact
from libs.messaging.apply import Handler

HANDLERS: dict[type[Fact], Handler] = {}
