// JavaScript's wavespeed 0.2.3, used as its README shows; nothing but the base URL is changed.
//
//     node javascript_0_2_3.mjs WAY BASE_URL REQUEST
//
// Prints what a user of the client sees, as JSON on the last line. The key is in WAVESPEED_API_KEY.

import { Client } from 'wavespeed';

const MODEL = 'wavespeed-ai/flux-control-lora-depth';

const WAYS = {
  // Submit and wait.
  run: (client, request) => client.run(MODEL, request),

  // Let the client run a task again where it thinks that helps: "Retry Configuration".
  run_with_retries: (client, request) => client.run(MODEL, request, { maxRetries: 1 }),

  // Have failures returned, with the task's id: "Getting Task ID and Debug Information".
  run_without_raising: (client, request) => client.runNoThrow(MODEL, request),

  // One request and no waiting: "Sync Mode".
  sync: (client, request) => client.run(MODEL, request, { enableSyncMode: true }),

  // Upload the control image's file and use the address that comes back: "Upload Files".
  async upload_then_run(client, request) {
    const uploaded = await client.upload(request.control_image);
    return { uploaded, ...(await client.run(MODEL, { ...request, control_image: uploaded })) };
  },
};

async function main([way, baseUrl, request]) {
  const client = new Client(process.env.WAVESPEED_API_KEY, { baseUrl });
  try {
    return { returned: await WAYS[way](client, JSON.parse(request)) };
  } catch (error) {
    return { raised: { class: error.name, message: error.message } };
  }
}

console.log(`\n${JSON.stringify(await main(process.argv.slice(2)))}`);
