output "bucket" {
  description = "The bucket's address."
  value       = "gs://${local.bucket}"
}

output "runner_service_account" {
  description = "Whose keys runs get: `kaggleops credentials create`."
  value       = google_service_account.runner.email
}

output "server_service_account" {
  description = "Who the machine is."
  value       = one(google_service_account.server[*].email)
}

output "server" {
  description = "The machine, as `server:` in config/local.yaml has it."
  value       = local.server
}

output "tunnel_command" {
  description = "Brings the remote UI to this machine's port 5000 (as `kaggleops ui` does)."
  value       = var.server ? "gcloud compute start-iap-tunnel ${var.name} ${local.port} --local-host-port=localhost:5000 --zone=${local.zone} --project=${var.project}" : null
}

output "password_command" {
  description = "With `open_to`: prints the first user's password, which the server made; the user is admin."
  value       = var.server && length(var.open_to) > 0 ? "gcloud compute ssh ${var.name} --zone=${local.zone} --project=${var.project} --tunnel-through-iap -- sudo grep -rh --include=admin-password . /var/lib/kaggleops/serve" : null
}

output "settings" {
  description = "What config/local.yaml is to hold."
  value = join("\n", compact([
    "bucket: gs://${local.bucket}",
    "runner: ${google_service_account.runner.email}",
    var.server ? "server: ${local.server}" : "",
    "",
  ]))
}

output "next_steps" {
  description = "The commands to use next, in the repository's root."
  value = compact([
    "terraform -chdir=infra/terraform output -raw settings > config/local.yaml",
    var.server ? "python infra/server/publish.py --bucket gs://${local.bucket}" : "",
    "kaggleops doctor",
    "kaggleops credentials create kaggle",
    "kaggleops run -b kaggle",
    "kaggleops ui",
  ])
}

locals {
  server = var.server ? "projects/${var.project}/zones/${local.zone}/instances/${var.name}" : null
}
