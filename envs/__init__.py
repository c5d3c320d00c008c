"""Gymnasium environments in which an agent takes the codec's decisions; importing this registers them."""

from gymnasium.envs.registration import register

from ambi_rl.envs.block_coding import BlockCodingEnv
from ambi_rl.envs.vector import BlockCodingVectorEnv

ENVIRONMENT_ID = "ambi_rl/BlockCoding-v0"

register(
    id=ENVIRONMENT_ID,
    entry_point="ambi_rl.envs.block_coding:BlockCodingEnv",
    vector_entry_point="ambi_rl.envs.vector:BlockCodingVectorEnv",
)

__all__ = ["ENVIRONMENT_ID", "BlockCodingEnv", "BlockCodingVectorEnv"]
