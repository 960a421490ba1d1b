"""What the gate does in between: measuring artifacts side by side, and judging what was measured."""
