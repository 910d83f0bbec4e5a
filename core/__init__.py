"""What all processes of jitney speak: requests, tensors, model configurations, errors. Imports nothing else of jitney."""
