"""Commands that compute the numbers in docs/ and write them into the pages."""
