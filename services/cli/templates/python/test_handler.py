import unittest

from handler import handle


class HandlerTest(unittest.TestCase):
    def test_greets_the_name_in_the_body(self):
        self.assertEqual(handle(b"Wherry\n", {"method": "POST"}), {"hello": "Wherry", "method": "POST"})


if __name__ == "__main__":
    unittest.main()
