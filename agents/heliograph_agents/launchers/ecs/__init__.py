"""The ECS launcher: one task of Amazon ECS for each attempt, on Fargate, instances or elsewhere."""
