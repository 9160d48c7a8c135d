"""A secret of each kind that people have, made here so that no file holds one."""

import json

HEX = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
_RANDOM = "a1B2c3D4e5F6g7H8i9J0"
PRIVATE_KEY = "-----BEGIN " + "PRIVATE KEY-----"

SERVICE_ACCOUNT = json.dumps(
    {
        "type": "service_account",
        "project_id": "canary",
        "private_key_id": HEX[1:] + HEX[:9],
        "private_key": f"{PRIVATE_KEY}\nCANARY{_RANDOM * 3}\n-----END " + "PRIVATE KEY-----\n",
        "client_email": "canary@canary.iam.gserviceaccount.com",
    },
    indent=2,
)
AUTHORIZED_USER = json.dumps(
    {
        "type": "authorized_user",
        "client_id": "1.apps.googleusercontent.com",
        "client_secret": "GOCSPX-" + "cAnArY12" * 3,
        "refresh_token": "1//" + "0g" + "CANARY" * 6,
    }
)
KAGGLE_KEY = json.dumps({"username": "ada", "key": HEX})
KAGGLE_TOKEN = "KGAT_" + HEX
RUNPOD_KEY = "rpa_" + "CANARY1234" * 4
S3_KEY_ID = "CANARYk3y1d" + "0A1B2C3D4"
S3_SECRET = "cAnArYs3" + "/a1B2+c3D4" * 3 + "e5"
S3_KEY = json.dumps(
    {"type": "s3", "access_key_id": S3_KEY_ID, "secret_access_key": S3_SECRET, "region": "auto"}
)
GITHUB_TOKEN = "gh" + "p_" + "cAnArY123" * 4
HUGGING_FACE_TOKEN = "hf_" + "cAnArYtOkEnS" * 2 + "cAnArYtOkE"
BEARER = "Authorization: Bearer " + "cAnArY.42x" * 4
DATABASE = "postgresql://ada:" + "cAnArY-horse-battery" + "@db.lab.org/runs"
