"""Limits of connections and bodies, beside those of requests (api/limits.py): together all that
`--limit` can set.
"""

from pydantic import Field

from puna.api.limits import Limits


class HttpLimits(Limits):
    """Bounds on connections (connection.py), bodies (middleware/body_limit.py,
    middleware/lingering_close.py) and requests.
    """

    body_bytes: int = Field(default=4 << 20, gt=0, description="of a request's body; more is a 413")
    body_seconds: float = Field(
        default=30, gt=0, description="for a body to arrive; longer is a 408"
    )
    header_bytes: int = Field(
        default=16 << 10, ge=512, description="of a request's first line and headers; more is a 431"
    )
    header_seconds: float = Field(
        default=10, gt=0, description="for them to arrive, from the connection on; longer is a 408"
    )
    keep_alive_seconds: int = Field(
        default=75,
        gt=0,
        description="of a connection between two requests; clients must let go of it sooner",
    )
    connections: int = Field(default=512, gt=0, description="open at once; one more is a 503")
    json_depth: int = Field(default=64, gt=0, description="brackets inside brackets in a body")

    @property
    def dropped_bytes(self) -> int:
        """Bytes of a rejected body that are read and dropped at most, so that a client that sends
        all of it before it reads sees the answer.
        """
        return 16 * self.body_bytes
