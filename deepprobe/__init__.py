"""Why does this very deep network train, or fail to?"""
