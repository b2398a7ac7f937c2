"""Rollouts: bringing a release to a population, and what one device does with it.

`rollout` and its neighbours decide for the fleet; `device` decides for one device and `slots` holds what it runs. All decisions are pure;
the processes that act on them are in `workers`.
"""
