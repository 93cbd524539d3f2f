"""The networks: the ResNet that learns, the generator that dreams, and the batch norm they share."""
