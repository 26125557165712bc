"""What is measured, on torch and NumPy alone: separation fuzziness, the law, the records of results."""
