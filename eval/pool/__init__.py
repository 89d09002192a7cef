"""Pools of workers: one in this process, several processes, or actors of a Ray cluster, and the loop that feeds them.

What a job is belongs to the caller: clips to generate in `vidguide.pipelines.sweep`, clips to score in `scoring`.
"""
