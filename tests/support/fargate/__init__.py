"""A double of Amazon ECS with Fargate: the AWS wire on loopback, and containers that really run, on a dockerd."""
