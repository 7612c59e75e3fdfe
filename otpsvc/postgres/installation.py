"""The installation's fixed facts: how many partitions there are, and which key indexes the numbers.

The names of all keys in Redis depend on both. A process with other settings would look in the wrong
places and count limits from zero, so it does not start.
"""

from otpsvc.errors import ConfigurationError
from otpsvc.postgres import queries
from otpsvc.postgres.pool import Database

_queries = queries.load("installation")


async def check_installation(database: Database, *, partitions: int, index_key_id: str) -> None:
    """Record the facts at the first start; raise ConfigurationError at a later one with others."""
    await database.execute(_queries.record_installation, partitions=partitions, index_key_id=index_key_id)
    row = await database.one(_queries.installation)
    if row is None:
        raise ConfigurationError("the table installation is empty although it was just written")
    if row["partitions"] != partitions:
        raise ConfigurationError(
            f"redis.partitions is {partitions}, but this database was set up with "
            f"{row['partitions']}: the number cannot be changed by a setting"
        )
    if row["index_key_id"] != index_key_id:
        raise ConfigurationError(
            f"keys: the index key is {index_key_id}, but this database was set up with "
            f"{row['index_key_id']}: bring back the master that it came from, and name it in "
            "keys.index_master"
        )


async def ping(database: Database) -> None:
    """Ask PostgreSQL for any answer; raise SERVICE_UNAVAILABLE."""
    await database.value(_queries.ping)
