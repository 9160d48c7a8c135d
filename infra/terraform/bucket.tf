locals {
  bucket = var.create_bucket ? google_storage_bucket.runs[0].name : var.bucket
}

resource "google_storage_bucket" "runs" {
  count = var.create_bucket ? 1 : 0

  name                        = var.bucket
  location                    = var.region
  labels                      = local.labels
  force_destroy               = var.delete_runs
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # A run is written some 650 times in nine hours, and a checkpoint is as large as its model: what
  # was overwritten is kept for a mistake that is seen soon, not for ever. Google bills it as it
  # bills the rest.
  versioning {
    enabled = true
  }

  soft_delete_policy {
    retention_duration_seconds = 7 * 24 * 3600
  }

  lifecycle_rule {
    condition {
      matches_prefix             = ["mlruns/"]
      num_newer_versions         = 10
      days_since_noncurrent_time = 1
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = 30
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      matches_prefix             = ["artifacts/", "code/", "colab/", "doctor/", "logs/", "page/", "server/"]
      days_since_noncurrent_time = 1
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      age            = var.keep_code_days
      matches_prefix = ["code/"]
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      age = 7
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  depends_on = [google_project_service.api]
}
